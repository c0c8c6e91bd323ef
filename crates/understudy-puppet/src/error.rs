/// What can be wrong with a request to the puppet world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The height or width is outside the supported range.
    #[error("a puppet frame must measure {min} to {max} pixels on each side, not {height}x{width}")]
    FrameSize {
        /// The requested height in pixels.
        height: usize,
        /// The requested width in pixels.
        width: usize,
        /// The least supported side.
        min: usize,
        /// The greatest supported side.
        max: usize,
    },
    /// The number of frames is outside the supported range.
    #[error("a puppet clip must have 1 to {max} frames, not {frames}")]
    FrameCount {
        /// The requested number of frames.
        frames: usize,
        /// The greatest supported number.
        max: usize,
    },
}

//! Resizing as the libraries do that metrics are defined by, to the last bit where they compute with
//! integers.
//!
//! Which one a published number was made with decides its second digit: they differ in their kernels, in
//! whether a kernel is widened where a picture shrinks, and in how they round. PyTorch's is [`Torch`], for
//! planes of `f32`.

mod opencv;
mod pillow;
mod warp;

pub use opencv::OpenCv;
pub use pillow::Pillow;
pub use understudy_kernels::resample::Torch;
pub use warp::warp_affine;

use crate::{Error, Image, Result};

/// That `image` is whole and `[height, width]` is not empty.
fn check(image: &Image, [height, width]: [usize; 2]) -> Result<()> {
    image.check()?;
    if height == 0 || width == 0 {
        Err(Error::invalid("resize", format!("{height} x {width} pixels are none")))
    } else {
        Ok(())
    }
}

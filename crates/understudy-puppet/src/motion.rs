//! What a character does: motion programs and their parameters.

use serde::{Deserialize, Serialize};

use crate::attribute::attribute;
use crate::identity::Split;
use crate::rng::{Rng, Stream};

attribute! {
    /// An action that captions name.
    Action {
        /// Steps across the frame, facing left.
        WalkLeft => "walks left",
        /// Steps across the frame, facing right.
        WalkRight => "walks right",
        /// Runs across the frame, leaning to the left.
        RunLeft => "runs left",
        /// Runs across the frame, leaning to the right.
        RunRight => "runs right",
        /// Jumps on the spot.
        Jump => "jumps",
        /// Waves one arm.
        Wave => "waves",
        /// Turns about its own axis.
        Spin => "spins",
        /// Nods the head.
        Nod => "nods",
        /// Shakes the head.
        ShakeHead => "shakes the head",
        /// Sways from side to side with both arms and legs.
        Dance => "dances",
        /// Sits down and stands up.
        Sit => "sits down",
        /// Hovers with beating arms or wings.
        Fly => "flies",
        /// Throws both arms up, with little hops.
        Cheer => "cheers",
        /// Somersaults.
        Flip => "does a flip",
    }
}

impl Action {
    /// The direction of travel: -1 to the left, 1 to the right, 0 on the spot.
    pub const fn direction(self) -> i8 {
        match self {
            Self::WalkLeft | Self::RunLeft => -1,
            Self::WalkRight | Self::RunRight => 1,
            _ => 0,
        }
    }
}

attribute! {
    /// A way of moving that no clip of either split shows, for measuring how well a motion of one's own is
    /// learned. Each changes one action.
    Quirk {
        /// Walking with one stiff leg, dropping at every second step.
        Limp => "limp",
        /// Jumping, tilted to alternate sides.
        HopAndTilt => "hop and tilt",
        /// Waving both arms, leaning over.
        DoubleWaveWithLean => "double wave with lean",
        /// Walking backwards, gliding.
        Moonwalk => "moonwalk",
        /// Spinning in jerks, crouched between them.
        StutterSpin => "stutter spin",
        /// Nodding while swinging like a pendulum, one arm up.
        PendulumNod => "pendulum nod",
        /// Jumping while one arm beats at twice the rate.
        FlapHop => "flap hop",
        /// Dancing with high knees and the head tilted against the body.
        MarchAndRoll => "march and roll",
    }
}

impl Quirk {
    /// The action that the quirk changes, which is also what captions call it.
    pub const fn action(self, mirrored: bool) -> Action {
        match self {
            Self::Limp | Self::Moonwalk if mirrored => Action::WalkLeft,
            Self::Limp | Self::Moonwalk => Action::WalkRight,
            Self::HopAndTilt | Self::FlapHop => Action::Jump,
            Self::DoubleWaveWithLean => Action::Wave,
            Self::StutterSpin => Action::Spin,
            Self::PendulumNod => Action::Nod,
            Self::MarchAndRoll => Action::Dance,
        }
    }
}

/// A motion program with its starting point. All parameters are whole levels, so that programs compare
/// exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Motion {
    /// What is done.
    pub action: Action,
    /// Tempo, 0 to 7: from 0.9 to 1.8 periods in 16 frames, and the distance that walks and runs cover.
    pub speed: u8,
    /// Size of the movement, 0 to 7: from 0.75 to 1.25 times the usual.
    pub amplitude: u8,
    /// Extra sway of the whole body, 0 to 7, from none to about 8 degrees.
    pub sway: u8,
    /// Where in its period the motion starts, in sixteenths. Not part of the program.
    pub phase: u8,
    /// The idiosyncrasy, if any.
    pub quirk: Option<Quirk>,
}

const SPLIT_SALT: u64 = 0x0710;

impl Motion {
    /// The number of levels of speed, amplitude and sway.
    pub const LEVELS: u8 = 8;

    /// The number of starting points.
    pub const PHASES: u8 = 16;

    /// The number of programs that scenarios draw from, both splits together.
    pub const DISTINCT: u64 = Action::COUNT as u64 * (Self::LEVELS as u64).pow(3);

    /// An action with middling parameters.
    pub const fn new(action: Action) -> Self {
        Self { action, speed: 3, amplitude: 4, sway: 2, phase: 0, quirk: None }
    }

    /// The `index`-th motion of a split. Actions are equally frequent.
    pub fn from_index(split: Split, index: u64) -> Self {
        Self::draw(None, split, index)
    }

    /// The `index`-th motion of a split that performs one action.
    pub fn of_action(action: Action, split: Split, index: u64) -> Self {
        Self::draw(Some(action), split, index)
    }

    fn draw(action: Option<Action>, split: Split, index: u64) -> Self {
        let seed = (split.index() + Split::COUNT * action.map_or(0, |action| 1 + action.index())) as u64;
        let mut rng = Rng::new(Stream::Motion, seed, index);
        loop {
            let any = rng.pick(&Action::ALL);
            let mut motion = Self::levels(&mut rng);
            motion.action = action.unwrap_or(any);
            if motion.split() == Some(split) {
                return motion;
            }
        }
    }

    /// The `index`-th idiosyncratic motion: the quirks in turn, each with parameters of its own.
    pub fn idiosyncratic(index: u64) -> Self {
        let mut rng = Rng::new(Stream::Idiosyncratic, 0, index);
        let quirk = Quirk::ALL[(index % Quirk::COUNT as u64) as usize];
        let action = quirk.action(rng.chance(50));
        Self { action, quirk: Some(quirk), ..Self::levels(&mut rng) }
    }

    fn levels(rng: &mut Rng) -> Self {
        let mut level = || rng.below(u32::from(Self::LEVELS)) as u8;
        let (speed, amplitude, sway) = (level(), level(), level());
        let phase = rng.below(u32::from(Self::PHASES)) as u8;
        Self { speed, amplitude, sway, phase, ..Self::new(Action::Jump) }
    }

    /// The canonical code of the program, which leaves out the phase. Equal codes mean equal programs.
    pub fn code(&self) -> u64 {
        let levels = [self.speed, self.amplitude, self.sway];
        let program = levels.iter().fold(self.action.index() as u64, |code, &level| {
            code * u64::from(Self::LEVELS) + u64::from(level.min(Self::LEVELS - 1))
        });
        program + Self::DISTINCT * self.quirk.map_or(0, |quirk| 1 + quirk.index() as u64)
    }

    /// The split that the program belongs to for good, by a hash of its code; `None` for idiosyncratic
    /// motions, which neither split shows.
    pub fn split(&self) -> Option<Split> {
        self.quirk.is_none().then(|| Split::of_code(SPLIT_SALT, self.code()))
    }

    /// Periods in 16 frames, 0.9 to 1.8.
    pub fn periods(&self) -> f32 {
        0.9 + 0.9 * level(self.speed)
    }

    /// The factor on the size of the movement, 0.75 to 1.25.
    pub fn scale(&self) -> f32 {
        0.75 + 0.5 * level(self.amplitude)
    }

    /// The extra sway in radians, 0 to 0.14.
    pub fn sway_angle(&self) -> f32 {
        0.14 * level(self.sway)
    }
}

/// A level as a fraction, 0 to 1.
pub(crate) fn level(level: u8) -> f32 {
    f32::from(level.min(Motion::LEVELS - 1)) / f32::from(Motion::LEVELS - 1)
}

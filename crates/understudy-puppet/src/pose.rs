//! From a motion program and a time to the posture of a puppet.

use crate::motion::{Action, Motion, Quirk, level};

/// Sine of an angle in turns.
///
/// A polynomial with an error below 2e-4, in place of the platform's sine: the same bits on every machine.
pub(crate) fn sine(turns: f32) -> f32 {
    let wrapped = turns - (turns + 0.5).floor();
    let folded = if wrapped > 0.25 {
        0.5 - wrapped
    } else if wrapped < -0.25 {
        -0.5 - wrapped
    } else {
        wrapped
    };
    let x = folded * std::f32::consts::TAU;
    let square = x * x;
    x * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)))
}

/// Cosine of an angle in turns.
pub(crate) fn cosine(turns: f32) -> f32 {
    sine(turns + 0.25)
}

/// The arc of a hop over one period: 0 on the ground, 1 at the top, with a short rest on the ground.
fn hop(turns: f32) -> f32 {
    let rest = 0.18;
    let t = (turns - turns.floor() - rest) / (1.0 - rest);
    if t <= 0.0 { 0.0 } else { 4.0 * t * (1.0 - t) }
}

/// Ease from 0 to 1 and back over one period, holding both ends for a while.
fn hold(turns: f32) -> f32 {
    (0.5 - 0.9 * cosine(turns)).clamp(0.0, 1.0)
}

/// The posture of a puppet. Lengths are in hundredths of the puppet's height, angles in turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pose {
    /// Distance travelled from the puppet's place, in 64ths of the frame's short side, to the right.
    pub(crate) travel: f32,
    /// Sideways shift of the figure.
    pub(crate) shift: f32,
    /// Height of the feet above the ground.
    pub(crate) lift: f32,
    /// Rotation about the middle of the body, clockwise.
    pub(crate) roll: f32,
    /// Rotation about the feet, clockwise.
    pub(crate) lean: f32,
    /// Horizontal scale of a figure that turns about its axis: -1 to 1, negative when seen from behind.
    pub(crate) turn: f32,
    /// Where the face looks: -1 left, 0 ahead, 1 right.
    pub(crate) gaze: f32,
    /// How much the face looks down.
    pub(crate) nod: f32,
    /// Shift of the head to the right.
    pub(crate) head_shift: f32,
    /// How far the body is lowered by bent legs.
    pub(crate) crouch: f32,
    /// Left and right arm: 0 hangs down, 0.25 points outward, 0.5 up.
    pub(crate) arms: [f32; 2],
    /// Left and right leg: 0 down, positive swings to the right.
    pub(crate) legs: [f32; 2],
    /// How far the left and right foot are raised.
    pub(crate) feet: [f32; 2],
}

impl Default for Pose {
    fn default() -> Self {
        Self {
            travel: 0.0,
            shift: 0.0,
            lift: 0.0,
            roll: 0.0,
            lean: 0.0,
            turn: 1.0,
            gaze: 0.0,
            nod: 0.0,
            head_shift: 0.0,
            crouch: 0.0,
            arms: [0.07, 0.07],
            legs: [0.0, 0.0],
            feet: [0.0, 0.0],
        }
    }
}

impl Pose {
    /// The posture at `frame` of a clip of `frames`.
    pub(crate) fn at(motion: &Motion, frame: usize, frames: usize) -> Self {
        let time = frame as f32 / 16.0;
        let start = f32::from(motion.phase) / f32::from(Motion::PHASES);
        let turns = start + time * motion.periods();
        // A clip of one frame shows the middle of a journey.
        let progress = if frames > 1 { frame as f32 / (frames - 1) as f32 } else { 0.5 };
        let mut pose = Self::of_action(motion, turns, progress);
        pose.lean += motion.sway_angle() / std::f32::consts::TAU * sine(turns * 0.5 + 0.125);
        if let Some(quirk) = motion.quirk {
            pose.apply(quirk, motion, turns);
        }
        pose
    }

    fn of_action(motion: &Motion, turns: f32, progress: f32) -> Self {
        let size = motion.scale();
        let wave = sine(turns);
        let rest = Self::default();
        match motion.action {
            Action::WalkLeft | Action::WalkRight => Self::walking(motion, turns, progress),
            Action::RunLeft | Action::RunRight => Self::running(motion, turns, progress),
            Action::Jump => {
                let height = hop(turns);
                let crouch = if height == 0.0 { 6.0 } else { 0.0 };
                let arm = 0.08 + 0.22 * height;
                Self { lift: 21.0 * size * height, crouch, arms: [arm, arm], ..rest }
            }
            Action::Wave => {
                Self { arms: [0.06, 0.36 + 0.10 * size * wave], lean: 0.01 * size * wave, ..rest }
            }
            Action::Spin => Self { turn: cosine(turns * 0.75), arms: [0.2 * size; 2], ..rest },
            Action::Nod => Self { nod: size * (0.5 - 0.5 * cosine(turns)), arms: [0.05, 0.05], ..rest },
            Action::ShakeHead => Self { gaze: size * wave, head_shift: 3.0 * size * wave, ..rest },
            Action::Dance => Self {
                shift: 9.0 * size * wave,
                lean: 0.03 * size * wave,
                arms: [0.25 - 0.2 * size * wave, 0.25 + 0.2 * size * wave],
                feet: [7.0 * size * wave.max(0.0), 7.0 * size * (-wave).max(0.0)],
                head_shift: -2.0 * wave,
                ..rest
            },
            Action::Sit => {
                let down = hold(turns * 0.75);
                Self { crouch: 15.0 * down, arms: [0.07 + 0.08 * down; 2], nod: 0.15 * down, ..rest }
            }
            Action::Fly => {
                let beat = 0.25 + 0.15 * size * sine(turns * 1.5);
                let lift = 17.0 + 7.0 * size * cosine(turns * 0.75);
                Self { lift, arms: [beat, beat], legs: [-0.04, 0.04], ..rest }
            }
            Action::Cheer => {
                let up = 0.38 + 0.1 * size * wave;
                Self { lift: 7.0 * size * wave.max(0.0), arms: [up, up], ..rest }
            }
            Action::Flip => {
                let cycle = turns * 0.66;
                let spin = ((cycle - cycle.floor() - 0.2) / 0.8).max(0.0);
                let height = 4.0 * spin * (1.0 - spin);
                Self {
                    lift: 18.0 * size * height,
                    roll: spin * spin * (3.0 - 2.0 * spin),
                    arms: [0.3; 2],
                    ..rest
                }
            }
        }
    }

    fn walking(motion: &Motion, turns: f32, progress: f32) -> Self {
        let direction = f32::from(motion.action.direction());
        let swing = sine(turns) * motion.scale();
        Self {
            travel: direction * (progress - 0.5) * (20.0 + 12.0 * level(motion.speed)),
            lift: 2.0 * swing.abs(),
            gaze: 0.8 * direction,
            arms: [0.07 - 0.08 * swing, 0.07 - 0.08 * swing],
            legs: [0.10 * swing, -0.10 * swing],
            feet: [4.0 * (swing * direction).max(0.0), 4.0 * (-swing * direction).max(0.0)],
            ..Self::default()
        }
    }

    fn running(motion: &Motion, turns: f32, progress: f32) -> Self {
        let direction = f32::from(motion.action.direction());
        let swing = sine(turns * 1.2) * motion.scale();
        Self {
            travel: direction * (progress - 0.5) * (29.0 + 8.0 * level(motion.speed)),
            lift: 6.0 * swing.abs(),
            lean: 0.035 * direction,
            gaze: direction,
            arms: [0.16 - 0.14 * swing, 0.16 + 0.14 * swing],
            legs: [0.16 * swing, -0.16 * swing],
            feet: [7.0 * (swing * direction).max(0.0), 7.0 * (-swing * direction).max(0.0)],
            ..Self::default()
        }
    }

    fn apply(&mut self, quirk: Quirk, motion: &Motion, turns: f32) {
        let size = motion.scale();
        let direction = f32::from(motion.action.direction());
        match quirk {
            Quirk::Limp => {
                let drop = sine(turns).max(0.0);
                self.lean += 0.05 * size * drop;
                self.crouch = 8.0 * size * drop;
                self.legs[1] = 0.06;
                self.feet[1] = 0.0;
                self.arms[1] = 0.22;
            }
            Quirk::HopAndTilt => {
                let side = if (turns.floor() as i64).rem_euclid(2) == 0 { 1.0 } else { -1.0 };
                self.lean += 0.07 * size * side * hop(turns);
            }
            Quirk::DoubleWaveWithLean => {
                self.arms[0] = 0.36 - 0.10 * size * sine(turns);
                self.lean += 0.05 * size + 0.02 * sine(turns * 0.5);
            }
            Quirk::Moonwalk => {
                self.gaze = -direction;
                self.lift = 0.0;
                self.lean -= 0.03 * direction;
                self.feet = [0.0, 0.0];
                self.nod = 0.5 * size * hop(turns * 2.0);
            }
            Quirk::StutterSpin => {
                let step = turns * 1.5;
                let jerk = ((step - step.floor()) * 2.5).min(1.0);
                self.turn = cosine((step.floor() + jerk) * 0.25 + 0.06);
                self.crouch = 9.0 * size * (1.0 - jerk);
            }
            Quirk::PendulumNod => {
                self.lean += 0.05 * size * sine(turns * 0.5);
                self.arms[0] = 0.46;
            }
            Quirk::FlapHop => {
                self.arms = [0.06, 0.26 + 0.16 * size * sine(turns * 2.0)];
                self.lean += 0.02;
            }
            Quirk::MarchAndRoll => {
                let wave = sine(turns);
                self.feet = [12.0 * size * wave.max(0.0), 12.0 * size * (-wave).max(0.0)];
                self.shift = 0.0;
                self.head_shift = -7.0 * size * wave;
                self.arms = [0.12 + 0.08 * wave, 0.12 - 0.08 * wave];
            }
        }
    }
}

/// What can be seen of an actor's posture in one frame, as numbers of about unit variance over the world's
/// motions: what a judge of motion is trained to read from a frame, and what a motion is compared by.
///
/// In turn: place across the frame, height of the feet, sine and cosine of the rotation about the middle of
/// the body, lean, turn about the axis, where the face looks, how far it looks down, shift of the head,
/// crouch, both arms, both legs, both feet.
pub type Posture = [f32; POSTURE];

/// How many numbers a [`Posture`] has.
pub const POSTURE: usize = 16;

/// Their means and deviations over the world's motions, to a digit or two.
const USUAL: [(f32, f32); POSTURE] = [
    (32.0, 6.0),
    (4.0, 5.0),
    (0.0, 0.2),
    (0.95, 0.2),
    (0.0, 0.012),
    (0.9, 0.35),
    (0.0, 0.45),
    (0.07, 0.22),
    (0.0, 1.5),
    (1.2, 3.5),
    (0.17, 0.13),
    (0.19, 0.14),
    (0.0, 0.05),
    (0.0, 0.05),
    (0.7, 1.7),
    (0.7, 1.7),
];

impl Pose {
    /// The numbers of a character of `scale` 64ths of the short side for each hundredth of its height, whose
    /// place is `x` in those.
    pub(crate) fn posture(&self, x: f32, scale: f32) -> Posture {
        let numbers = [
            x + self.shift * scale,
            self.lift,
            sine(self.roll),
            cosine(self.roll),
            self.lean,
            self.turn,
            self.gaze,
            self.nod,
            self.head_shift,
            self.crouch,
            self.arms[0],
            self.arms[1],
            self.legs[0],
            self.legs[1],
            self.feet[0],
            self.feet[1],
        ];
        std::array::from_fn(|index| (numbers[index] - USUAL[index].0) / USUAL[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_is_close_to_the_exact_one() {
        for step in -4000..4000 {
            let turns = step as f32 / 1000.0;
            let exact = (f64::from(turns) * std::f64::consts::TAU).sin() as f32;
            assert!((sine(turns) - exact).abs() < 2e-4, "{turns}");
        }
    }
}

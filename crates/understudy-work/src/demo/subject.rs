//! The bundled subject: a character of the puppet world that the base was never shown.

use anyhow::{Result, bail};
use understudy_media::Image;
use understudy_puppet::{Action, Class, Identity, Motion, Quirk, Scenario, Scene, Size, Split, World};

/// How many pictures there are of it.
const PICTURES: usize = 6;
/// Which of the held-out cats it is.
const INDEX: u64 = 8;
/// Where and at what the prompts show it: no picture does.
const SCENES: [Scene; 4] = [Scene::Beach, Scene::Snow, Scene::Stage, Scene::Desert];
const ACTIONS: [Action; 4] = [Action::Jump, Action::WalkLeft, Action::Dance, Action::Wave];

fn identity() -> Identity {
    Identity::of_class(Class::Cat, Split::HeldOut, INDEX)
}

/// Its class noun.
pub fn class() -> &'static str {
    identity().noun()
}

/// The pictures: portraits in other places and poses than the prompts'.
///
/// # Errors
/// When the world cannot render them.
pub fn pictures() -> Result<Vec<Image>> {
    let side = 64;
    let world = World::new(Size::new(1, side, side))?;
    let other = |scenario: &Scenario| {
        let actions = scenario.actors.iter().map(|actor| actor.motion.action);
        !SCENES.contains(&scenario.scene) && actions.into_iter().all(|action| !ACTIONS.contains(&action))
    };
    let scenarios = (0..1000).map(|seed| Scenario::portrait(identity(), seed)).filter(other).take(PICTURES);
    let pictures: Vec<Image> = scenarios
        .map(|scenario| Image::new(side, side, world.render(&scenario).frames))
        .collect::<Result<_, _>>()?;
    match pictures.len() {
        PICTURES => Ok(pictures),
        found => bail!("only {found} pictures of the bundled subject could be made"),
    }
}

/// A clip of it, moving in a way of its own: what Set-and-Sequence learns from.
pub fn performance() -> Scenario {
    let motion = Motion { quirk: Some(Quirk::MarchAndRoll), ..Motion::new(Action::Dance) };
    Scenario::solo(identity(), motion, Scene::Room, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_differ_and_the_subject_is_held_out() {
        let pictures = pictures().unwrap();
        assert!((1..PICTURES).all(|index| pictures[index] != pictures[index - 1]));
        assert_eq!(identity().split(), Split::HeldOut);
    }
}

//! What is painted on a character's body: attributes that show on few pixels and are the first to be lost.

use crate::color::Color;
use crate::identity::{EmblemShape, Identity, Pattern};

/// How many markings there are.
pub const MARKINGS: usize = 4;

/// One of them: what it is called, and the words for its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marking {
    /// Its name.
    pub name: &'static str,
    /// The values it may have, in order.
    pub values: Vec<&'static str>,
}

/// The pattern of the body and its colour, the emblem on the chest and its colour.
pub fn markings() -> [Marking; MARKINGS] {
    let colors = || Color::ALL.map(Color::word).to_vec();
    let emblems = std::iter::once("none").chain(EmblemShape::ALL.map(EmblemShape::word));
    [
        Marking { name: "pattern", values: Pattern::ALL.map(Pattern::word).to_vec() },
        Marking { name: "pattern color", values: colors() },
        Marking { name: "emblem", values: emblems.collect() },
        Marking { name: "emblem color", values: colors() },
    ]
}

impl Identity {
    /// Which value each of [`markings`] has; a colour of nothing has none.
    pub fn markings(&self) -> [Option<usize>; MARKINGS] {
        let painted = self.pattern != Pattern::Plain;
        [
            Some(self.pattern.index()),
            painted.then(|| self.second.index()),
            Some(self.emblem.map_or(0, |own| 1 + own.shape.index())),
            self.emblem.map(|own| own.color.index()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Split;

    #[test]
    fn markings_are_what_the_attributes_say() {
        let known = markings();
        for index in 0..200 {
            let identity = Identity::from_index(Split::HeldOut, index);
            let words: Vec<Option<&str>> = identity
                .markings()
                .iter()
                .zip(&known)
                .map(|(value, marking)| value.map(|value| marking.values[value]))
                .collect();
            let plain = identity.pattern == Pattern::Plain;
            assert_eq!(words[0], Some(identity.pattern.word()));
            assert_eq!(words[1], (!plain).then(|| identity.second.word()));
            assert_eq!(words[2], Some(identity.emblem.map_or("none", |own| own.shape.word())));
            assert_eq!(words[3], identity.emblem.map(|own| own.color.word()));
        }
    }
}

//! Who a character is: the attributes that never change within its life.

use serde::{Deserialize, Serialize};

use crate::attribute::attribute;
use crate::color::Color;
use crate::rng::{Rng, Stream, mix};

attribute! {
    /// The two halves of the world. A code (of an identity or a motion program) belongs to one of them for
    /// good.
    Split {
        /// What the models are trained on.
        Train => "train",
        /// What the methods are measured on.
        HeldOut => "held-out",
    }
}

impl Split {
    /// The half that a code belongs to: a hash of the code alone, one in ten held out.
    pub(crate) const fn of_code(salt: u64, code: u64) -> Self {
        if mix(code ^ mix(salt)).is_multiple_of(10) { Self::HeldOut } else { Self::Train }
    }
}

attribute! {
    /// What kind of character it is, named by its noun.
    Class {
        /// A person; the body colour is that of the clothes, the accent that of the hair.
        Person => "person",
        /// A cat: pointed ears, whiskers, a long tail.
        Cat => "cat",
        /// A dog: hanging ears, a snout, a short tail.
        Dog => "dog",
        /// A robot: boxes, a screen for a face, antennae.
        Robot => "robot",
        /// A bird: beak, wings, thin legs.
        Bird => "bird",
        /// A bear: small round ears and a big muzzle.
        Bear => "bear",
        /// A rabbit: long ears and a round tail.
        Rabbit => "rabbit",
        /// A frog: eyes on top of a wide head.
        Frog => "frog",
    }
}

attribute! {
    /// The outline of the head.
    HeadShape {
        /// A circle.
        Round => "round",
        /// Wider than tall.
        Wide => "wide",
        /// Taller than wide.
        Tall => "tall",
        /// A box with rounded corners.
        Square => "square",
        /// Narrow above, with cheeks below.
        Pear => "pear",
    }
}

attribute! {
    /// How the class's ears are worn; for a person, the hair; for a robot, the antennae; for a bird, the
    /// crest.
    Crest {
        /// Small ears, short hair.
        Small => "small",
        /// Large ears, long hair.
        Large => "large",
        /// Ears set apart and turned out, hair in bunches.
        Spread => "spread",
        /// One ear only half as big, hair parted to one side.
        Lopsided => "lopsided",
        /// Ears with a tuft of the accent colour between them, hair in a mohawk.
        Tufted => "tufted",
    }
}

attribute! {
    /// The shape of the eyes.
    Eyes {
        /// Plain dots.
        Dots => "dots",
        /// Big white eyes with pupils.
        Big => "big",
        /// Half closed.
        Sleepy => "sleepy",
        /// Tall and narrow.
        Tall => "tall",
        /// Ringed with the accent colour.
        Ringed => "ringed",
    }
}

attribute! {
    /// The marking of the face; a person's skin tone is told by the same attribute, from light to dark.
    Face {
        /// No marking.
        Plain => "plain",
        /// The lower half in the second colour.
        Muzzle => "muzzle",
        /// A band over the eyes in the second colour.
        Mask => "mask",
        /// A stripe from forehead to nose in the second colour.
        Blaze => "blaze",
    }
}

attribute! {
    /// What the body is painted with, in the second colour.
    Pattern {
        /// Nothing.
        Plain => "plain",
        /// Horizontal stripes.
        Stripes => "striped",
        /// Round spots.
        Spots => "spotted",
        /// A belly patch.
        Patch => "patched",
        /// A chess board.
        Checks => "checked",
        /// A diagonal sash.
        Sash => "sashed",
        /// One half of the body.
        Halves => "halved",
    }
}

attribute! {
    /// The outline of a chest emblem.
    EmblemShape {
        /// A five-pointed star.
        Star => "star",
        /// A heart.
        Heart => "heart",
        /// A disc.
        Circle => "circle",
        /// A square.
        Square => "square",
        /// A triangle, point up.
        Triangle => "triangle",
        /// A cross.
        Cross => "cross",
    }
}

/// An emblem on the chest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Emblem {
    /// Its outline.
    pub shape: EmblemShape,
    /// Its colour.
    pub color: Color,
}

attribute! {
    /// Something worn.
    AccessoryKind {
        /// A tall hat with a brim.
        TopHat => "top hat",
        /// A cap with a visor.
        Cap => "cap",
        /// A cone with a pompom.
        PartyHat => "party hat",
        /// A crown with three points.
        Crown => "crown",
        /// A knitted hat.
        Beanie => "beanie",
        /// Glasses with thick rims.
        Glasses => "glasses",
        /// A bow on the side of the head.
        Bow => "bow",
        /// A scarf with a loose end.
        Scarf => "scarf",
        /// Headphones.
        Headphones => "headphones",
        /// A cape behind the back.
        Cape => "cape",
        /// A necktie.
        Tie => "tie",
    }
}

/// Something worn, with its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accessory {
    /// What it is.
    pub kind: AccessoryKind,
    /// Its colour.
    pub color: Color,
}

attribute! {
    /// The proportions of the body.
    Build {
        /// Narrow body, longer legs.
        Slim => "slim",
        /// Between the others.
        Regular => "regular",
        /// Broad body, short legs.
        Stout => "stout",
    }
}

/// A character: everything about it that is the same in all of its clips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The kind of character.
    pub class: Class,
    /// The main colour.
    pub body: Color,
    /// The colour of the pattern, the face marking and the feet.
    pub second: Color,
    /// The colour of hair, inner ears, beak and small parts.
    pub accent: Color,
    /// The outline of the head.
    pub head: HeadShape,
    /// The ears or hair.
    pub crest: Crest,
    /// The eyes.
    pub eyes: Eyes,
    /// The marking of the face, or a person's skin tone.
    pub face: Face,
    /// The pattern of the body.
    pub pattern: Pattern,
    /// The emblem on the chest, if any.
    pub emblem: Option<Emblem>,
    /// What is worn, if anything.
    pub accessory: Option<Accessory>,
    /// The proportions.
    pub build: Build,
}

/// Salts the split hash of identities, so that it is unrelated to that of motion programs.
const SPLIT_SALT: u64 = 0x1DE7;

impl Identity {
    /// The number of identities that [`Identity::from_index`] can draw, both splits together.
    ///
    /// The second colour differs from the body's, accent and emblem from both, the accessory from the body's.
    pub const DISTINCT: u64 = {
        let colors = Color::COUNT as u64;
        let emblems = 1 + EmblemShape::COUNT as u64 * (colors - 2);
        let accessories = 1 + AccessoryKind::COUNT as u64 * (colors - 1);
        let palettes = colors * (colors - 1) * (colors - 2);
        let heads = (HeadShape::COUNT * Crest::COUNT * Eyes::COUNT * Face::COUNT) as u64;
        let bodies = (Pattern::COUNT * Build::COUNT) as u64;
        Class::COUNT as u64 * palettes * heads * bodies * emblems * accessories
    };

    /// The `index`-th identity of a split. Classes are equally frequent. Two indices
    /// give the same identity only by a rare coincidence.
    pub fn from_index(split: Split, index: u64) -> Self {
        Self::draw(None, split, index)
    }

    /// The `index`-th identity of one class in a split.
    pub fn of_class(class: Class, split: Split, index: u64) -> Self {
        Self::draw(Some(class), split, index)
    }

    fn draw(class: Option<Class>, split: Split, index: u64) -> Self {
        let seed = (split.index() + Split::COUNT * class.map_or(0, |class| 1 + class.index())) as u64;
        let mut rng = Rng::new(Stream::Identity, seed, index);
        loop {
            let mut identity = Self::any(&mut rng);
            identity.class = class.unwrap_or(identity.class);
            if identity.split() == split {
                return identity;
            }
        }
    }

    fn any(rng: &mut Rng) -> Self {
        let class = rng.pick(&Class::ALL);
        let body = rng.pick(&Color::ALL);
        let second = other_color(rng, &[body]);
        Self {
            class,
            body,
            second,
            accent: other_color(rng, &[body, second]),
            head: rng.pick(&HeadShape::ALL),
            crest: rng.pick(&Crest::ALL),
            eyes: rng.pick(&Eyes::ALL),
            face: rng.pick(&Face::ALL),
            pattern: rng.pick(&Pattern::ALL),
            emblem: rng.chance(60).then(|| Emblem {
                shape: rng.pick(&EmblemShape::ALL),
                color: other_color(rng, &[body, second]),
            }),
            accessory: rng
                .chance(85)
                .then(|| Accessory { kind: rng.pick(&AccessoryKind::ALL), color: other_color(rng, &[body]) }),
            build: rng.pick(&Build::ALL),
        }
    }

    /// The kind of character.
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The class noun, e.g. `cat`.
    pub const fn noun(&self) -> &'static str {
        self.class.word()
    }

    /// The canonical code: the attributes as digits of one mixed-radix number. Equal codes mean equal
    /// identities.
    pub fn code(&self) -> u64 {
        let colors = Color::COUNT;
        let emblem = self.emblem.map_or(0, |it| 1 + it.shape.index() * colors + it.color.index());
        let accessory = self.accessory.map_or(0, |it| 1 + it.kind.index() * colors + it.color.index());
        let digits = [
            (self.class.index(), Class::COUNT),
            (self.body.index(), colors),
            (self.second.index(), colors),
            (self.accent.index(), colors),
            (self.head.index(), HeadShape::COUNT),
            (self.crest.index(), Crest::COUNT),
            (self.eyes.index(), Eyes::COUNT),
            (self.face.index(), Face::COUNT),
            (self.pattern.index(), Pattern::COUNT),
            (emblem, 1 + EmblemShape::COUNT * colors),
            (accessory, 1 + AccessoryKind::COUNT * colors),
            (self.build.index(), Build::COUNT),
        ];
        digits.iter().fold(0, |code, &(digit, radix)| code * radix as u64 + digit as u64)
    }

    /// The split that this identity belongs to, for good: a hash of its code.
    pub fn split(&self) -> Split {
        Split::of_code(SPLIT_SALT, self.code())
    }
}

/// A colour other than the `taken` ones, which are distinct; all others are equally likely.
fn other_color(rng: &mut Rng, taken: &[Color]) -> Color {
    let mut free = [Color::Red; Color::COUNT];
    let mut count = 0;
    for color in Color::ALL.into_iter().filter(|color| !taken.contains(color)) {
        free[count] = color;
        count += 1;
    }
    free[rng.below(count as u32) as usize]
}

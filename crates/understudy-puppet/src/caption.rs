//! The grammar of captions. Captions are lower-case words separated by single spaces.

use std::collections::BTreeSet;

use crate::attribute::attribute;
use crate::color::Color;
use crate::identity::{AccessoryKind, Class, EmblemShape, Identity, Pattern};
use crate::motion::{Action, Motion};
use crate::rng::{Rng, Stream};
use crate::scenario::{Actor, Scenario};
use crate::scene::{Camera, Light, Object, ObjectKind, Scene, Style};

/// The most words a caption has, unless a given subject phrase is longer than the description it replaces.
pub const MAX_WORDS: usize = 32;

attribute! {
    /// How much a caption tells.
    Detail {
        /// Class, action, place.
        Brief => "brief",
        /// Also the main colours.
        Colors => "colors",
        /// Also one or two traits: pattern, accessory, emblem; sometimes object, light, camera, style.
        Traits => "traits",
        /// All traits, object, light, camera and style.
        Full => "full",
    }
}

impl Detail {
    fn less(self) -> Self {
        match self {
            Self::Full => Self::Traits,
            Self::Traits => Self::Colors,
            Self::Colors | Self::Brief => Self::Brief,
        }
    }

    /// The percentage of captions that mention one particular aspect outside the subject.
    fn percent(self) -> u32 {
        match self {
            Self::Brief => 0,
            Self::Colors => 35,
            Self::Traits => 60,
            Self::Full => 100,
        }
    }
}

const GLUE: [&str; 4] =
    ["a an and while", "in with clothes hair", "holding carrying beside next to wearing", "belly sash"];

fn verbs(action: Action) -> [&'static str; 3] {
    match action {
        Action::WalkLeft => ["walks left", "walks to the left", "strolls left"],
        Action::WalkRight => ["walks right", "walks to the right", "strolls right"],
        Action::RunLeft => ["runs left", "runs to the left", "dashes left"],
        Action::RunRight => ["runs right", "runs to the right", "dashes right"],
        Action::Jump => ["jumps", "jumps up and down", "leaps up and down"],
        Action::Wave => ["waves", "waves a hand", "waves hello"],
        Action::Spin => ["spins", "spins around", "turns around and around"],
        Action::Nod => ["nods", "nods yes", "nods the head"],
        Action::ShakeHead => ["shakes the head", "shakes the head no", "looks left and right"],
        Action::Dance => ["dances", "dances around", "sways and dances"],
        Action::Sit => ["sits down", "sits down and stands up", "crouches down"],
        Action::Fly => ["flies", "hovers in the air", "flies in the air"],
        Action::Cheer => ["cheers", "cheers with both arms up", "celebrates"],
        Action::Flip => ["does a flip", "does a somersault", "flips over"],
    }
}

fn places(scene: Scene) -> [&'static str; 2] {
    match scene {
        Scene::Beach => ["on the beach", "on a sandy beach"],
        Scene::Forest => ["in the forest", "in the woods"],
        Scene::City => ["in the city", "in front of a skyline"],
        Scene::Space => ["in space", "in outer space"],
        Scene::Snow => ["in the snow", "on a snowy field"],
        Scene::Sea => ["on a raft at sea", "on the sea"],
        Scene::Desert => ["in the desert", "in the desert sand"],
        Scene::Room => ["in a room", "inside a room"],
        Scene::Meadow => ["in a meadow", "in a meadow of flowers"],
        Scene::Stage => ["on a stage", "on stage"],
        Scene::Mountain => ["in the mountains", "in front of mountains"],
        Scene::Street => ["on the street", "in front of houses"],
    }
}

impl Scene {
    /// Where it is, in one plain wording, for prompts that are written and not drawn.
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Beach => "on the beach",
            Self::Forest => "in the forest",
            Self::City => "in the city",
            Self::Space => "in space",
            Self::Snow => "in the snow",
            Self::Sea => "at sea",
            Self::Desert => "in the desert",
            Self::Room => "in a room",
            Self::Meadow => "in a meadow",
            Self::Stage => "on a stage",
            Self::Mountain => "in front of mountains",
            Self::Street => "in front of houses",
        }
    }
}

fn lights(light: Light) -> [&'static str; 2] {
    match light {
        Light::Day => ["by day", "in daylight"],
        Light::Sunset => ["at sunset", "in the evening sun"],
        Light::Dusk => ["at dusk", "in the purple dusk"],
        Light::Night => ["at night", "under the moon"],
        Light::Overcast => ["on a cloudy day", "under gray clouds"],
    }
}

fn cameras(camera: Camera) -> [&'static str; 2] {
    match camera {
        Camera::Static => ["static camera", "fixed camera"],
        Camera::PanLeft => ["camera pans left", "camera moves left"],
        Camera::PanRight => ["camera pans right", "camera moves right"],
        Camera::ZoomIn => ["camera zooms in", "slow zoom in"],
        Camera::ZoomOut => ["camera zooms out", "slow zoom out"],
    }
}

fn styles(style: Style) -> [&'static str; 2] {
    match style {
        Style::Flat => ["flat style", "flat colors"],
        Style::Outlined => ["outlined style", "cartoon outlines"],
        Style::Pastel => ["pastel style", "pastel colors"],
        Style::Sketch => ["sketch style", "pencil sketch"],
        Style::Dark => ["dark style", "dark tones"],
    }
}

fn accessories(kind: AccessoryKind) -> [&'static str; 2] {
    match kind {
        AccessoryKind::TopHat => ["top hat", "tall hat"],
        AccessoryKind::Beanie => ["beanie", "knitted hat"],
        kind => [kind.word(), kind.word()],
    }
}

/// Adverbs for the two slowest and the two fastest tempos.
fn tempo(speed: u8) -> Option<[&'static str; 2]> {
    match speed {
        0 | 1 => Some(["slowly", "gently"]),
        6.. => Some(["quickly", "fast"]),
        _ => None,
    }
}

/// Every lower-case word that captions and [`Identity::describe`] can hold, sorted, without repetition.
pub fn vocabulary() -> Vec<String> {
    let mut phrases: Vec<&str> = GLUE.to_vec();
    phrases.extend(Color::ALL.map(Color::word));
    phrases.extend(Class::ALL.map(Class::word));
    phrases.extend(Pattern::ALL.into_iter().filter_map(adjective));
    phrases.extend(EmblemShape::ALL.map(EmblemShape::word));
    phrases.extend(ObjectKind::ALL.map(ObjectKind::word));
    phrases.extend(AccessoryKind::ALL.into_iter().flat_map(accessories));
    phrases.extend(Action::ALL.into_iter().flat_map(verbs));
    phrases.extend((0..Motion::LEVELS).filter_map(tempo).flatten());
    phrases.extend(Scene::ALL.into_iter().flat_map(places));
    phrases.extend(Light::ALL.into_iter().flat_map(lights));
    phrases.extend(Camera::ALL.into_iter().flat_map(cameras));
    phrases.extend(Style::ALL.into_iter().flat_map(styles));
    let words: BTreeSet<_> = phrases.into_iter().flat_map(str::split_whitespace).collect();
    words.into_iter().map(str::to_owned).collect()
}

impl Scenario {
    /// The caption of this scenario: wording and detail are drawn by its seed.
    pub fn caption(&self) -> String {
        let mut rng = Rng::new(Stream::Caption, 0, self.seed);
        let detail = rng.weighted(&[
            (Detail::Brief, 15),
            (Detail::Colors, 25),
            (Detail::Traits, 35),
            (Detail::Full, 25),
        ]);
        self.caption_with(rng.word(), detail)
    }

    /// A caption of the given detail, worded by `seed`. Detail is lowered where it would exceed
    /// [`MAX_WORDS`].
    pub fn caption_with(&self, seed: u64, detail: Detail) -> String {
        self.word_caption(None, seed, detail)
    }

    /// A caption in which `subject`, e.g. `"a <s> cat"`, stands in place of the first character's
    /// description.
    pub fn caption_with_subject(&self, subject: &str, seed: u64, detail: Detail) -> String {
        self.word_caption(Some(subject), seed, detail)
    }

    fn word_caption(&self, subject: Option<&str>, seed: u64, mut detail: Detail) -> String {
        loop {
            let mut rng = Rng::new(Stream::Caption, 1, seed);
            let caption = self.sentence(subject, &mut rng, detail);
            if caption.split(' ').count() <= MAX_WORDS || detail == Detail::Brief {
                return caption;
            }
            detail = detail.less();
        }
    }

    fn sentence(&self, subject: Option<&str>, rng: &mut Rng, detail: Detail) -> String {
        let mut clauses = Vec::with_capacity(8);
        for (place, actor) in self.actors.iter().enumerate() {
            if place > 0 {
                clauses.push(rng.pick(&["and", "while"]).to_owned());
            }
            match subject.filter(|_| place == 0) {
                Some(subject) => clauses.push(subject.to_owned()),
                None => clauses.push(with_article(&description(&actor.identity, detail, rng))),
            }
            clauses.push(performance(actor, detail, rng));
        }
        clauses.push(rng.pick(&places(self.scene)).to_owned());
        // The usual look is mentioned less often.
        let mut mention = |phrases: [&'static str; 2], usual: bool| {
            let percent = if usual { detail.percent() / 6 } else { detail.percent() };
            let (said, phrase) = (rng.chance(percent), rng.pick(&phrases));
            if said {
                clauses.push(phrase.to_owned());
            }
        };
        mention(lights(self.light), self.light == Light::Day);
        mention(cameras(self.camera), self.camera == Camera::Static);
        mention(styles(self.style), self.style == Style::Flat);
        clauses.join(" ")
    }
}

impl Identity {
    /// A noun phrase without article, e.g. `red and white striped cat with a blue cap`; always the same for
    /// the same identity and detail.
    pub fn describe(&self, detail: Detail) -> String {
        description(self, detail, &mut Rng::new(Stream::Caption, 2, 0))
    }
}

fn description(identity: &Identity, detail: Detail, rng: &mut Rng) -> String {
    if detail == Detail::Brief {
        return identity.noun().to_owned();
    }
    // At middling detail one trait is left out, so that captions do not always tell the same things.
    let left_out = if detail == Detail::Full { 3 } else { rng.below(3) };
    let traits = detail >= Detail::Traits;
    let pattern = if traits && left_out != 0 { identity.pattern } else { Pattern::Plain };
    let colors = colors(identity, pattern);
    let mut phrase = match identity.class {
        Class::Person if adjective(pattern).is_some() => format!("person in {colors} clothes"),
        Class::Person => format!("person in {colors}"),
        class => format!("{colors} {class}"),
    };
    let mut parts = Vec::new();
    if identity.class == Class::Person && (detail == Detail::Full || rng.chance(30)) {
        parts.push(format!("{} hair", identity.accent));
    }
    match pattern {
        Pattern::Patch => parts.push(with_article(&format!("{} belly", identity.second))),
        Pattern::Sash => parts.push(with_article(&format!("{} sash", identity.second))),
        _ => {}
    }
    if let Some(accessory) = identity.accessory.filter(|_| traits && left_out != 1) {
        let name = rng.pick(&accessories(accessory.kind));
        let phrase = format!("{} {name}", accessory.color);
        let plural = matches!(accessory.kind, AccessoryKind::Glasses | AccessoryKind::Headphones);
        parts.push(if plural { phrase } else { with_article(&phrase) });
    }
    if let Some(emblem) = identity.emblem.filter(|_| traits && left_out != 2) {
        parts.push(with_article(&format!("{} {}", emblem.color, emblem.shape)));
    }
    if !parts.is_empty() {
        phrase.push_str(" with ");
        phrase.push_str(&parts.join(" and "));
    }
    phrase
}

/// The colours of the body, with the second one where the pattern shows it all over.
fn colors(identity: &Identity, pattern: Pattern) -> String {
    let Identity { body, second, .. } = identity;
    match (adjective(pattern), pattern) {
        (Some(adjective), _) => format!("{body} and {second} {adjective}"),
        (None, Pattern::Halves) => format!("{body} and {second}"),
        _ => body.word().to_owned(),
    }
}

fn adjective(pattern: Pattern) -> Option<&'static str> {
    matches!(pattern, Pattern::Stripes | Pattern::Spots | Pattern::Checks).then(|| pattern.word())
}

/// What an actor does, and with what.
fn performance(actor: &Actor, detail: Detail, rng: &mut Rng) -> String {
    let mut phrase = rng.pick(&verbs(actor.motion.action)).to_owned();
    let (said, adverb) = (rng.chance(detail.percent() / 2), rng.below(2) as usize);
    if let Some(adverbs) = tempo(actor.motion.speed).filter(|_| said) {
        phrase = format!("{phrase} {}", adverbs[adverb]);
    }
    let said = rng.chance(detail.percent());
    if let Some(object) = actor.object.filter(|_| said) {
        phrase = format!("{phrase} {}", company(object, rng));
    }
    phrase
}

fn company(object: Object, rng: &mut Rng) -> String {
    let preposition = match object.kind {
        ObjectKind::Ball | ObjectKind::Box => rng.pick(&["next to", "beside"]),
        ObjectKind::Backpack => rng.pick(&["with", "wearing"]),
        _ => rng.pick(&["holding", "carrying"]),
    };
    format!("{preposition} {}", with_article(&format!("{} {}", object.color, object.kind)))
}

fn with_article(phrase: &str) -> String {
    let article = if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {phrase}")
}

//! The procedural puppet world: identities, actions, scenes, captions and masks, deterministic by index.
//!
//! A [`World`] renders [`Scenario`]s to [`Clip`]s. A scenario is drawn by [`Split`] and index, or put
//! together from an [`Identity`], a [`Motion`], a [`Scene`], a [`Light`], a [`Camera`] and a [`Style`]:
//!
//! ```
//! use understudy_puppet::{Action, Class, Identity, Light, Motion, Scenario, Scene, Size, Split, World};
//!
//! let cat = Identity::of_class(Class::Cat, Split::HeldOut, 7);
//! let scenario = Scenario::solo(cat, Motion::new(Action::Jump), Scene::Beach, 1).with_light(Light::Sunset);
//! let clip = World::new(Size::default())?.render(&scenario);
//! assert_eq!(clip.masks.len(), 1);
//! # Ok::<(), understudy_puppet::Error>(())
//! ```
//!
//! What is held out is held out for good: whether an identity or a motion program belongs to [`Split::Train`]
//! or [`Split::HeldOut`] is a hash of its canonical code. Motions from [`Motion::idiosyncratic`] belong to
//! neither.

mod attribute;
mod backdrop;
mod caption;
mod character;
mod color;
mod draw;
mod error;
mod head;
mod identity;
mod markings;
mod motion;
mod place;
mod pose;
mod prop;
mod rng;
mod scenario;
mod scene;
mod wear;
mod world;

pub use caption::{Detail, MAX_WORDS, vocabulary};
pub use character::{Feature, Part};
pub use color::Color;
pub use error::Error;
pub use identity::{
    Accessory, AccessoryKind, Build, Class, Crest, Emblem, EmblemShape, Eyes, Face, HeadShape, Identity,
    Pattern, Split,
};
pub use markings::{MARKINGS, Marking, markings};
pub use motion::{Action, Motion, Quirk};
pub use pose::{POSTURE, Posture};
pub use scenario::{Actor, Scenario};
pub use scene::{Camera, Light, Object, ObjectKind, Scene, Style};
pub use world::{Clip, PixelBox, Shown, Size, World};

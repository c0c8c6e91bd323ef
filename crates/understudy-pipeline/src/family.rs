//! Families of bases: networks that belong together, the files they come in, and the names of their modules.
//!
//! A family is one folder below `families/` and one line in [`FAMILIES`]. Nothing else knows its networks:
//! what is known of a base without its values is its [`Description`], and what its networks do is asked of
//! them by the traits of [`network`](crate::network).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::sites::{Site, Sites};

use crate::base::{Base, LoadOptions};
use crate::cost::Costs;
use crate::error::{Error, Result};
use crate::families::{animatediff, wan};
use crate::files::Source;
use crate::geometry::Geometry;
use crate::naming::{Naming, network_of};
use crate::network::ControlNetwork;
use crate::recognize::{Network, Recognized};
use crate::scheduler::Scheduler;
use crate::tokenize::Tokenizer;

/// Every family there is.
pub static FAMILIES: &[&dyn Family] = &[&wan::Wan, &animatediff::AnimateDiff];

/// A family of bases.
pub trait Family: Debug + Sync {
    /// Its name, e.g. `wan`.
    fn name(&self) -> &'static str;

    /// Which networks of this family are in `file`, by names and shapes: none, one, or all of a base.
    fn networks(&self, file: &Checkpoint) -> Vec<Network>;

    /// What diffusers publishes its pipelines as.
    fn pipeline(&self) -> &'static str;

    /// The classes that diffusers and transformers publish its networks as.
    fn classes(&self) -> &'static [&'static str];

    /// What the original release calls a network's file, and how that name begins: where a folder has several
    /// of a kind, these are the base.
    fn published(&self, network: Network) -> (&'static str, &'static str);

    /// The same in more words, compared with what they must be; with those of `base`, where that is given.
    fn recognize(&self, file: &Checkpoint, base: Option<&Source>) -> Vec<Recognized>;

    /// Opens the files of `source`, each once; `None` where they are of another family.
    ///
    /// # Errors
    /// When a file is missing, malformed or not supported.
    fn open(&self, source: &Source, device: &Device) -> Result<Option<Box<dyn OpenBase>>>;

    /// A network that controls generations of a base of this family.
    ///
    /// # Errors
    /// When the family knows none, or it cannot be read.
    fn control(&self, path: &Path, about: &Description, device: &Device) -> Result<Arc<dyn ControlNetwork>> {
        let _ = (about, device);
        Err(Error::File {
            file: path.display().to_string(),
            reason: format!("bases of {} are controlled by no pictures", self.name()),
            advice: "leave it out, or use a Stable Diffusion with motion modules",
        })
    }

    /// The published denoiser that has linear maps of these paths and shapes, `[outputs, inputs]`, if one
    /// has.
    fn model_of(&self, maps: &[(&str, [usize; 2])]) -> Option<&'static str>;

    /// What its modules are called, in the published files and elsewhere.
    fn naming(&self) -> &'static Naming;
}

/// A base whose files are open.
pub trait OpenBase {
    /// What is known without values.
    fn about(&self) -> &Arc<Description>;

    /// What is to be said of its files.
    fn notes(&self) -> &[String];

    /// Texts to ids.
    fn tokenizer(&self) -> &Tokenizer;

    /// Loads the networks.
    ///
    /// # Errors
    /// When weights do not fit: every missing, mis-shaped and unknown tensor is listed.
    fn load(self: Box<Self>, options: LoadOptions) -> Result<Base>;
}

/// What is known of a base without its values.
#[derive(Clone, Debug)]
pub struct Description {
    /// The family's name.
    pub family: &'static str,
    /// A short name for the architecture, the same for every base that adapters can be exchanged with.
    pub identity: String,
    /// The published model it is, if it is one.
    pub model: Option<&'static str>,
    /// What the modules of the denoiser are called.
    pub naming: &'static Naming,
    /// The denoiser's name, as its folder is called: by it things are attached.
    pub denoiser: &'static str,
    /// Sites, by network.
    pub sites: BTreeMap<&'static str, Sites>,
    /// The shapes of the denoiser's tensors, and of those of other networks that adapters may change, which
    /// are named as [`network_of`] says.
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// Blocks of the denoiser that can stay in its file.
    pub blocks: usize,
    /// The sampler it was made for, and how a run's noise levels are laid out.
    pub scheduler: Scheduler,
    /// Tokens of a prompt, padding included.
    pub text_limit: usize,
    /// Rows of the table of tokens, and their length.
    pub text_table: [usize; 2],
    /// Layers of the text encoder, as far as the last of them can be left out; 0 where none can.
    pub text_layers: usize,
    /// Which videos fit, and what latents they make.
    pub geometry: Geometry,
    /// What its networks take.
    pub costs: Costs,
    /// What its videos usually are.
    pub usual: Usual,
}

impl Description {
    /// The sites of the denoiser.
    pub fn denoiser_sites(&self) -> &Sites {
        static NONE: Sites = Sites { maps: BTreeMap::new(), attentions: Vec::new(), states: Vec::new() };
        self.sites.get(self.denoiser).unwrap_or(&NONE)
    }

    /// A network that controls generations of such a base.
    ///
    /// # Errors
    /// Those of [`Family::control`].
    pub fn control(&self, path: &Path, device: &Device) -> Result<Arc<dyn ControlNetwork>> {
        let family = FAMILIES.iter().find(|family| family.name() == self.family);
        family.unwrap_or(&FAMILIES[0]).control(path, self, device)
    }

    /// The map of this path, in whichever network it is; see [`network_of`].
    pub fn map(&self, path: &str) -> Option<&Site> {
        let (network, path) = network_of(path);
        self.sites.get(network.unwrap_or(self.denoiser))?.maps.get(path)
    }
}

/// The settings a base's videos are usually made with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usual {
    /// Frames, height and width.
    pub size: [usize; 3],
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f32,
    /// Frames a second.
    pub fps: f64,
    /// How many times pictures and videos are enlarged for the eye.
    pub enlarged: usize,
    /// Whether it is so small that everything about it takes minutes.
    pub small: bool,
}

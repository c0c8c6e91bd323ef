//! Methods: ways to learn a subject, and to use what was learned.
//!
//! A method is one folder below `methods/` and one line in [`METHODS`]. Its author writes a [`Recipe`] with
//! settings of its own type; everybody else sees a [`Method`], whose settings are a TOML table.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};
use understudy_pipeline::{Autoencoder, Base, Companion, Description, Request};

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::job::{Job, Plan};
use crate::methods::{Lora, SetAndSequence, VWarper};
use crate::stages::judge::Judge;
use crate::stages::run::Emit;
use crate::subject::{Subject, SubjectOptions};

/// Every method there is; the first is the usual one.
pub static METHODS: &[&dyn Method] = &[&Lora, &SetAndSequence, &VWarper];

/// The method of this name.
///
/// # Errors
/// When there is none among [`METHODS`]; the message names them.
pub fn method(name: &str) -> Result<&'static dyn Method> {
    method_among(METHODS, name)
}

/// The method of this name among `methods`.
///
/// # Errors
/// When there is none; the message names them.
pub fn method_among(methods: &[&'static dyn Method], name: &str) -> Result<&'static dyn Method> {
    let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    let unknown = || Error::config("method", format!("{name:?} is not known; use {}", names.join(", ")));
    methods.iter().find(|method| method.name() == name).copied().ok_or_else(unknown)
}

/// What settings start from: those for a base of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// For bases as small as `nano`.
    Small,
    /// For bases of the published sizes.
    Full,
}

impl Preset {
    /// That of a base.
    pub fn of(about: &Description) -> Self {
        if about.usual.small { Self::Small } else { Self::Full }
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            // What they were called when each was one family's.
            "small" | "nano" => Ok(Self::Small),
            "full" | "wan" => Ok(Self::Full),
            other => Err(Error::config("preset", format!("{other:?} is not known; use small or full"))),
        }
    }
}

/// A method as its author writes it.
pub trait Recipe: Debug + Sync {
    /// Its settings; what of them is not known is refused by their deserialization.
    type Settings: Clone + Serialize + DeserializeOwned;

    /// Its name on the command line and in adapters.
    fn name(&self) -> &'static str;

    /// What it does, in a line.
    fn about(&self) -> &'static str;

    /// The settings that are measured on bases of a size.
    fn preset(&self, preset: Preset) -> Self::Settings;

    /// That settings are in their ranges.
    ///
    /// # Errors
    /// Names the first that is not, and the range.
    fn check(&self, settings: &Self::Settings) -> Result<()>;

    /// That sizes, lengths and targets fit a base.
    ///
    /// # Errors
    /// Names the first that does not, and what would.
    fn check_base(&self, settings: &Self::Settings, about: &Description) -> Result<()>;

    /// How a subject is read.
    fn subject_options(&self, settings: &Self::Settings, about: &Description) -> SubjectOptions;

    /// What is going to happen, found out without weights; everything that can be checked cheaply is checked.
    ///
    /// # Errors
    /// When a subject or a prompt does not fit.
    fn plan(&self, job: &Job, settings: &Self::Settings) -> Result<Plan>;

    /// Fits the subject. A run that was stopped in any way goes on from its last state when it is started
    /// again with the same job and settings, and ends with the same numbers as one that was not.
    ///
    /// # Errors
    /// As [`Recipe::plan`]; when the folder cannot be written or belongs to another run; when training
    /// diverges; and [`Error::Stopped`] when `emit` asked to stop.
    fn fit(
        &self,
        job: &Job,
        settings: &Self::Settings,
        judge: Option<&dyn Judge>,
        emit: Emit,
    ) -> Result<Adapter>;

    /// What prompts call the subject of this index that was learned, and what it does if that has a word,
    /// e.g. `<s> cat <m>`.
    fn phrase(&self, (_, subject): (usize, &Subject), _: &Self::Settings) -> String {
        subject.phrase()
    }

    /// Whether its adapters hold parts that have names of this program alone.
    fn needs_own_names(&self) -> bool {
        false
    }

    /// How many times as long a step takes with an adapter of it, in a video of so many latent frames and of
    /// so many passes of the denoiser.
    fn slowdown(&self, adapter: &Adapter, with: &Table, frames: usize, passes: usize) -> f32 {
        let _ = (adapter, with, frames, passes);
        1.0
    }

    /// That an adapter of it goes with all that is asked for, found out before the first step.
    ///
    /// # Errors
    /// When it does not.
    fn check_use(&self, adapter: &Adapter, with: &Table, base: &Base, request: &Request) -> Result<()> {
        let _ = (adapter, with, base, request);
        Ok(())
    }

    /// Adds what an adapter of this method needs beside its residuals to `request`, as `with` says; what runs
    /// beside the generation, if something does.
    ///
    /// # Errors
    /// When a setting is out of its range, or the adapter does not go with the request.
    fn apply(
        &self,
        adapter: &Adapter,
        with: &Table,
        base: &Base,
        request: &mut Request,
    ) -> Result<Option<Arc<dyn Applied>>> {
        let _ = (adapter, with, base, request);
        Ok(None)
    }
}

/// What a method runs beside a generation.
pub trait Applied: Companion {
    /// Ends the generation of `frames`, the video of this index: writes what is kept or shown of it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(&self, vae: &dyn Autoencoder, frames: &Tensor<5>, index: usize) -> Result<()> {
        let _ = (vae, frames, index);
        Ok(())
    }
}

/// A method as the program sees it: settings are tables.
pub trait Method: Debug + Sync {
    /// See [`Recipe::name`].
    fn name(&self) -> &'static str;

    /// See [`Recipe::about`].
    fn about(&self) -> &'static str;

    /// The settings of a preset with those of `over` in their place, table by table.
    ///
    /// # Errors
    /// When one is unknown, of the wrong kind or out of its range; the message names it.
    fn settings(&self, preset: Preset, over: &Table) -> Result<Table>;

    /// See [`Recipe::check_base`].
    ///
    /// # Errors
    /// As that.
    fn check_base(&self, settings: &Table, about: &Description) -> Result<()>;

    /// See [`Recipe::subject_options`].
    ///
    /// # Errors
    /// When these are not its settings.
    fn subject_options(&self, settings: &Table, about: &Description) -> Result<SubjectOptions>;

    /// See [`Recipe::plan`].
    ///
    /// # Errors
    /// As that.
    fn plan(&self, job: &Job, settings: &Table) -> Result<Plan>;

    /// See [`Recipe::fit`].
    ///
    /// # Errors
    /// As that.
    fn fit(&self, job: &Job, settings: &Table, judge: Option<&dyn Judge>, emit: Emit) -> Result<Adapter>;

    /// See [`Recipe::phrase`], of all subjects.
    ///
    /// # Errors
    /// When these are not its settings.
    fn phrase(&self, subjects: &[Subject], settings: &Table) -> Result<String>;

    /// See [`Recipe::needs_own_names`].
    fn needs_own_names(&self) -> bool;

    /// See [`Recipe::slowdown`].
    fn slowdown(&self, adapter: &Adapter, with: &Table, frames: usize, passes: usize) -> f32;

    /// See [`Recipe::check_use`].
    ///
    /// # Errors
    /// As that.
    fn check_use(&self, adapter: &Adapter, with: &Table, base: &Base, request: &Request) -> Result<()>;

    /// See [`Recipe::apply`].
    ///
    /// # Errors
    /// As that.
    fn apply(
        &self,
        adapter: &Adapter,
        with: &Table,
        base: &Base,
        request: &mut Request,
    ) -> Result<Option<Arc<dyn Applied>>>;
}

impl<R: Recipe> Method for R {
    fn name(&self) -> &'static str {
        Recipe::name(self)
    }

    fn about(&self) -> &'static str {
        Recipe::about(self)
    }

    fn settings(&self, preset: Preset, over: &Table) -> Result<Table> {
        let mut table = Table::try_from(self.preset(preset)).map_err(|error| misfit(&error))?;
        merge(&mut table, over);
        let settings: R::Settings = read(&table)?;
        self.check(&settings)?;
        Table::try_from(&settings).map_err(|error| misfit(&error))
    }

    fn check_base(&self, settings: &Table, about: &Description) -> Result<()> {
        Recipe::check_base(self, &read(settings)?, about)
    }

    fn subject_options(&self, settings: &Table, about: &Description) -> Result<SubjectOptions> {
        Ok(Recipe::subject_options(self, &read(settings)?, about))
    }

    fn plan(&self, job: &Job, settings: &Table) -> Result<Plan> {
        Recipe::plan(self, job, &read(settings)?)
    }

    fn fit(&self, job: &Job, settings: &Table, judge: Option<&dyn Judge>, emit: Emit) -> Result<Adapter> {
        Recipe::fit(self, job, &read(settings)?, judge, emit)
    }

    fn phrase(&self, subjects: &[Subject], settings: &Table) -> Result<String> {
        let settings = read(settings)?;
        let each = subjects.iter().enumerate().map(|subject| Recipe::phrase(self, subject, &settings));
        Ok(each.collect::<Vec<_>>().join(" and a "))
    }

    fn needs_own_names(&self) -> bool {
        Recipe::needs_own_names(self)
    }

    fn slowdown(&self, adapter: &Adapter, with: &Table, frames: usize, passes: usize) -> f32 {
        Recipe::slowdown(self, adapter, with, frames, passes)
    }

    fn check_use(&self, adapter: &Adapter, with: &Table, base: &Base, request: &Request) -> Result<()> {
        Recipe::check_use(self, adapter, with, base, request)
    }

    fn apply(
        &self,
        adapter: &Adapter,
        with: &Table,
        base: &Base,
        request: &mut Request,
    ) -> Result<Option<Arc<dyn Applied>>> {
        Recipe::apply(self, adapter, with, base, request)
    }
}

/// Settings of a type from a table.
///
/// # Errors
/// When one is unknown or of the wrong kind; the message names it.
pub(crate) fn read<S: DeserializeOwned>(table: &Table) -> Result<S> {
    table.clone().try_into().map_err(|error: toml::de::Error| misfit(&error))
}

fn misfit(error: &dyn std::fmt::Display) -> Error {
    Error::config("settings", error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

fn merge(into: &mut Table, from: &Table) {
    for (name, value) in from {
        match (into.get_mut(name), value) {
            (Some(Value::Table(inner)), Value::Table(more)) => merge(inner, more),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

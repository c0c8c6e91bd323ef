//! A subject from pictures of it to an adapter file.

mod judging;
mod kept;
mod settings;

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use toml::Table;
use understudy_engine::device::DeviceName;
use understudy_engine::safetensors::Precision;
use understudy_files::Lock;
use understudy_media::{OutputFormat, check_writable};
use understudy_personalize::{
    Adapter, DEFAULT_TOKEN, Dialect, Error, FitEvent, Job, Judge, METHODS, Method, Preset, Subject,
    SubjectOptions, method, numbered,
};
use understudy_pipeline::{Base, LoadOptions, OpenedBase};

use crate::base::BaseArguments;
use crate::context::Context;
use crate::event::Event;
use crate::memory;
use crate::named::Named;
use crate::outputs::{Input, reserve};
use crate::said::{size, text};
use crate::usage::WrongUsage;
use judging::Judging;
use settings::Settings;

/// Learn a subject from pictures or a clip of it and write an adapter.
#[derive(Debug, Args)]
#[command(
    override_usage = "understudy fit --subject <DIR|FILE> --class <NOUN> --out <FILE.safetensors> [OPTIONS]\n       \
    understudy fit --print-config [OPTIONS]"
)]
pub struct Fit {
    /// A folder of pictures of the subject, one picture, one video, or a description of a data set (TOML,
    /// JSONL).
    ///
    /// Pictures are PNG, JPEG, WebP, BMP or TIFF; NAME.txt beside one is its caption. NAME.txt beside a video
    /// says what it shows and, in square brackets, what the subject does, "a bear [walks to the left] in a
    /// room"; in NAME.masks/ is a picture for every frame, white where the subject is. Given several times,
    /// the subjects are learned together.
    #[arg(
        long = "subject",
        visible_alias = "data",
        value_name = "DIR|FILE",
        required_unless_present = "print_config"
    )]
    subjects: Vec<PathBuf>,
    /// What the subject is, as a noun: cat, teddy bear. One for each subject.
    #[arg(long = "class", value_name = "NOUN", required_unless_present = "print_config")]
    classes: Vec<String>,
    /// The word that will stand for it in prompts [<s>; of several <s>, <s2>, ...].
    #[arg(long = "token", value_name = "WORD")]
    tokens: Vec<String>,
    /// The adapter to write. States, the log and samples go to FILE.run beside it.
    #[arg(long, value_name = "FILE.safetensors", required_unless_present_any = ["print_config", "plan"])]
    out: Option<PathBuf>,
    /// How to learn.
    #[arg(long, default_value = METHODS[0].name(), value_name = "NAME", value_parser = methods())]
    method: &'static dyn Method,
    /// The names its tensors get: comfyui, diffusers, kohya or diffsynth.
    #[arg(long, default_value = "comfyui", value_name = "NAME")]
    format: Dialect,
    /// Go on with the run in FILE.run.
    #[arg(long)]
    resume: bool,
    /// Say what it is going to take and what is left out, and stop.
    #[arg(long, conflicts_with = "print_config")]
    plan: bool,
    /// Print the settings as TOML and do nothing.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    base: BaseArguments,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    judging: Judging,
}

impl Named for Fit {
    const NAME: &'static str = "fit";
}

/// Reads the name of a method.
fn methods() -> impl TypedValueParser<Value = &'static dyn Method> {
    let names = METHODS.iter().map(|method| PossibleValue::new(method.name()).help(method.about()));
    PossibleValuesParser::new(names.collect::<Vec<_>>()).try_map(|name| method(&name))
}

/// Where a run reads and writes.
struct Places {
    out: PathBuf,
    folder: PathBuf,
    /// Nobody else writes there meanwhile.
    _reserved: Vec<Lock>,
}

impl Fit {
    /// Fits the subject, or tells the plan or the settings alone.
    ///
    /// # Errors
    /// When something that is named does not fit; when it is stopped, and how to go on.
    pub fn run(self, context: &Context) -> Result<()> {
        let _precision = context.precision();
        if self.method.needs_own_names() && self.format != Dialect::ComfyUi {
            let reason = format!(
                "--format {}: a motion is kept apart in comfyui's names only; convert it later",
                self.format
            );
            return Err(WrongUsage(reason).into());
        }
        // A plan goes without a place for its adapter; one that is given is looked at as for the work itself.
        let places = match (&self.out, self.print_config) {
            (Some(out), false) => Some(self.places(out, context)?),
            _ => None,
        };
        let every = self.judging.checked()?;
        let opened = self.base.source()?.open(&context.device)?;
        opened.notes().iter().for_each(|note| context.note(note));
        let about = opened.about().clone();
        let preset = Preset::of(&about);
        let settings = self.settings.table(preset, (self.method, Some(&about)), (context.bf16, every))?;
        if self.print_config {
            context.tell(&Event::Settings { settings: toml::to_string_pretty(&settings)? });
            return Ok(());
        }
        let subjects = self.read_subjects(self.method.subject_options(&settings, &about)?)?;
        self.method.check_base(&settings, &about)?;
        let folder = places.as_ref().map(|places| places.folder.as_path());
        if self.plan {
            return self.tell_plan(opened, (&subjects, folder), &settings, context);
        }
        // The parser sees to it that there is one where more is done than to print settings or a plan.
        let Some(places) = places else { bail!("--out is needed") };
        let blocks_on_host = self.base.blocks_on_host;
        let options = LoadOptions { blocks_on_host, ..LoadOptions::default() };
        let base = context.bases.load(&self.base.arguments().concat(), opened, options)?;
        let adapter = self.train(&base, &subjects, &settings, (&places, context))?;
        adapter.save(&places.out, self.format, Precision::F32)?;
        let phrase = self.method.phrase(&subjects, &settings)?;
        context.tell(&Event::Fitted { path: text(&places.out), phrase, base: self.base.arguments() });
        Ok(())
    }

    /// Says what it is going to take.
    fn tell_plan(
        &self,
        opened: OpenedBase,
        (subjects, folder): (&[Subject], Option<&Path>),
        settings: &Table,
        context: &Context,
    ) -> Result<()> {
        let Some((subject, others)) = subjects.split_first() else { bail!("--subject is needed") };
        let begun = folder.filter(|folder| folder.exists());
        if let Some(folder) = begun {
            kept::check(settings, subjects, folder, |note| context.note(note))?;
        }
        // Nothing is computed with its weights.
        let options = LoadOptions { blocks_on_host: usize::MAX, ..LoadOptions::default() };
        let mut base = opened.load(options)?;
        base.blocks_on_host = self.base.blocks_on_host;
        let (name, nowhere) = (self.base.name(), Path::new(""));
        let job = Job { base: &base, base_name: &name, subject, others, folder: nowhere };
        let planned = self.method.plan(&job, settings)?;
        let memory = planned.memory;
        context.tell(&Event::Fitting(Box::new(FitEvent::Plan { event: "fit", plan: planned })));
        if let Some(folder) = begun {
            let folder = folder.display();
            context.note(format!("that is the whole of it; what {folder} has done is left out of it"));
        }
        self.check_memory(memory, context)
    }

    /// The subjects, each with its class and its token.
    fn read_subjects(&self, options: SubjectOptions) -> Result<Vec<Subject>> {
        let count = self.subjects.len();
        let given = [("--class", self.classes.len()), ("--token", self.tokens.len())];
        let wrong = |(flag, found): &&(&str, usize)| *found != count && (*flag == "--class" || *found > 0);
        if let Some((flag, found)) = given.iter().find(wrong) {
            let reason = format!("{flag}: {found} given for {count} subjects; give one for each");
            return Err(WrongUsage(reason).into());
        }
        let token = |index: usize| match self.tokens.get(index) {
            Some(token) => token.clone(),
            None => numbered(DEFAULT_TOKEN, index),
        };
        let named = self.subjects.iter().zip(&self.classes).enumerate();
        named.map(|(index, (path, class))| Ok(Subject::open(path, class, &token(index), options)?)).collect()
    }

    fn train(
        &self,
        base: &Base,
        subjects: &[Subject],
        settings: &Table,
        (places, context): (&Places, &Context),
    ) -> Result<Adapter> {
        let Some((subject, others)) = subjects.split_first() else { bail!("--subject is needed") };
        let name = self.base.name();
        let job = Job { base, base_name: &name, subject, others, folder: &places.folder };
        let judge = self.judging.judge(subject, &base.about, context)?;
        let judge = judge.as_ref().map(|judge| judge as &dyn Judge);
        let mut ready = Ok(());
        let fitted = self.method.fit(&job, settings, judge, &mut |event| {
            context.tell(&Event::Fitting(Box::new(event.clone())));
            if let FitEvent::Plan { plan, .. } = event {
                let note = |message: &str| context.note(message);
                ready = self
                    .check_memory(plan.memory, context)
                    .and_then(|()| kept::keep(settings, subjects, &places.folder, note));
            }
            if ready.is_ok() { context.flow() } else { ControlFlow::Break(()) }
        });
        ready?;
        fitted.map_err(|error| match error {
            Error::Stopped { stage, step, total } => anyhow::anyhow!(
                "stopped on request after {step} of {total} steps of {stage}; the state is in {}: run the same \
                 command with --resume to go on",
                places.folder.display()
            ),
            other => other.into(),
        })
    }

    /// Says so when it is going to take more memory than is free.
    ///
    /// # Errors
    /// When this machine does not have as much.
    fn check_memory(&self, needed: u64, context: &Context) -> Result<()> {
        let advice = "a smaller --batch, --height and --width, or --blocks-on-host take less";
        if let Some(free) =
            memory::available().filter(|free| context.device_name == DeviceName::Cpu && *free < needed)
        {
            if !self.plan {
                memory::check(needed, advice)?;
            }
            let [needed, free] = [needed, free].map(size);
            context.note(format!(
                "it takes about {needed} of memory, more than the {free} that are free; {advice}"
            ));
        }
        Ok(())
    }

    /// The paths, found usable.
    fn places(&self, out: &Path, context: &Context) -> Result<Places> {
        if OutputFormat::from_path(out).ok() != Some(OutputFormat::Safetensors) {
            let reason = format!("--out {}: an adapter's name must end in .safetensors", out.display());
            return Err(WrongUsage(reason).into());
        }
        check_writable(out)?;
        let reserved = reserve(&[("--out", out)], &self.inputs())?;
        let mut name = OsString::from(out);
        name.push(".run");
        let folder = PathBuf::from(name);
        if folder.exists() && !self.resume {
            bail!(
                "{} is there from an earlier run; add --resume to go on with it, or remove it to start over",
                folder.display()
            );
        }
        if self.resume && !self.plan && !folder.exists() {
            context.note(format!("there is no run in {} to go on with; starting one", folder.display()));
        }
        if !self.plan {
            understudy_files::remove_leftovers(&folder);
        }
        Ok(Places { out: out.to_owned(), folder, _reserved: reserved })
    }

    /// What is read.
    fn inputs(&self) -> Vec<Input> {
        // An adapter may lie beside the pictures it was learned from.
        let pictures = |path: &Path| path.extension().is_none_or(|own| own != "safetensors");
        let subjects = self.subjects.iter().map(|path| Input::some("--subject", path, pictures));
        let mut inputs = self.base.inputs();
        inputs.extend(subjects);
        inputs.extend(self.settings.input());
        inputs.extend(self.judging.inputs());
        inputs
    }
}

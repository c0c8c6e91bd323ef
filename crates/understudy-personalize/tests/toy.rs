//! A family and a method that nothing else knows: what a new one takes is a registry's line and itself.
#![allow(clippy::unwrap_used)]

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use common::{device, go, golden, values};
use serde::{Deserialize, Serialize};
use toml::Table;
use understudy_engine::attach::{Attached, Attachments};
use understudy_engine::parameters::{Initializer, Parameters};
use understudy_engine::replay::{BlockStack, State};
use understudy_engine::safetensors::{Checkpoint, Precision};
use understudy_engine::sites::{Role, Sites};
use understudy_engine::weights::{Init, Probe, Weights};
use understudy_media::Image;
use understudy_models::layers::Linear;
use understudy_personalize::{
    Adapter, Dialect, Emit, Error, FitEvent, Job, Judge, Learning, Lora, METHODS, Metadata, Method, Plan,
    Preset, Recipe, Residual, Subject, SubjectOptions, method_among,
};
use understudy_pipeline::cost::{Costs, Halved};
use understudy_pipeline::{
    Autoencoder, Base, Conditioned, Denoiser, Description, End, FAMILIES, Family, Files, Geometry,
    LoadOptions, Module, ModuleKind, Naming, Network, Networks, Noise, OpenBase, Recognized, Request,
    Sampler, Scheduler, Source, Step, TextEncoder, Texts, Tokenizer, Tokens, Usual, generate,
};

const WIDTH: usize = 6;
const BLOCKS: usize = 2;
const LATENTS: usize = 4;
const SIDE: usize = 4;
const WORDS: usize = 12;
/// Rows of the table of tokens.
const ROWS: usize = 64;

static NAMING: Naming = Naming {
    network: "unet",
    modules: Cow::Borrowed(&[
        Module::named("inwards", "input.0", ModuleKind::Map),
        Module::named("levels.{}.look", "body.{}.look", ModuleKind::Map),
        Module::named("levels.{}.read", "body.{}.read", ModuleKind::Map),
        Module::named("outwards", "output.0", ModuleKind::Map),
    ]),
    foreign: &[],
    flat_published: false,
    trainer_module: "networks.lora_toy",
    title: "a toy's denoiser",
    relatives: &[],
    made_for: |_, _| None,
};

/// A picture is told from its frame's neighbours by nothing: every place by itself, and the mean of the
/// words.
#[derive(Clone, Debug)]
struct Net {
    inwards: Linear,
    blocks: Vec<[Linear; 2]>,
    outwards: Linear,
    noise: Noise,
}

impl Net {
    fn new(weights: &Weights) -> Self {
        let block = |index: usize| {
            let at = |name: &str| weights.at("levels").at(index).at(name);
            let look = Linear::new(&at("look").serving(Role::SelfAttention), WIDTH, WIDTH, true);
            [look, Linear::new(&at("read").serving(Role::CrossAttention), WIDTH, WIDTH, false)]
        };
        Self {
            inwards: Linear::new(&weights.at("inwards"), LATENTS, WIDTH, true),
            blocks: (0..BLOCKS).map(block).collect(),
            outwards: Linear::new(&weights.at("outwards"), WIDTH, LATENTS, true),
            noise: scheduler().noise(),
        }
    }
}

/// One pass of it.
struct Pass<'a> {
    net: &'a Net,
    attachments: Attachments,
    words: Tensor<3>,
    latents: Tensor<5>,
    end: End<'a>,
}

impl BlockStack for Pass<'_> {
    fn depth(&self) -> usize {
        BLOCKS
    }

    fn begin(&self) -> (State, Vec<Tensor<3>>) {
        let [samples, channels, ..] = self.latents.dims();
        let places =
            self.latents.clone().permute([0, 2, 3, 4, 1]).reshape([samples as i32, -1, channels as i32]);
        (self.net.inwards.forward(places, &self.attachments).into(), vec![self.words.clone()])
    }

    fn block(&self, index: usize, state: State, shared: &[Tensor<3>]) -> State {
        let hidden = state.hidden;
        let [look, read] = &self.net.blocks[index];
        let words = read.forward(shared[0].clone().mean_dim(1), &self.attachments);
        State::from(hidden.clone() + (look.forward(hidden, &self.attachments) + words).tanh())
    }

    fn loss(&self, state: State, _: &[Tensor<3>]) -> Tensor<1> {
        let [samples, channels, frames, rows, columns] = self.latents.dims();
        let places = self.net.outwards.forward(state.hidden, &self.attachments);
        (self.end)(places.reshape([samples, frames, rows, columns, channels]).permute([0, 4, 1, 2, 3]))
    }
}

impl Denoiser for Net {
    fn name(&self) -> &'static str {
        "unet"
    }

    fn noise(&self) -> &Noise {
        &self.noise
    }

    fn depth(&self) -> usize {
        BLOCKS
    }

    fn with_texts<'a>(
        &'a self,
        texts: Texts,
        attached: &'a Attached,
        _: Option<f32>,
    ) -> Box<dyn Conditioned + 'a> {
        Box::new(Told { net: self, words: texts.words, attached })
    }

    fn stack<'a>(
        &'a self,
        texts: &Texts,
        step: Step<'_>,
        attached: &'a Attached,
        end: End<'a>,
    ) -> Box<dyn BlockStack + 'a> {
        let attachments = attached.to("unet").at(step.progress);
        Box::new(Pass { net: self, attachments, words: texts.words.clone(), latents: step.latents, end })
    }
}

struct Told<'a> {
    net: &'a Net,
    words: Tensor<3>,
    attached: &'a Attached,
}

impl Conditioned for Told<'_> {
    fn predict(&mut self, step: Step<'_>) -> Tensor<5> {
        let dims = step.latents.dims();
        let words = self.words.clone().narrow(0, 0, dims[0]);
        // A stack ends in a scalar; what it predicted is kept on the way there.
        let kept = std::cell::RefCell::new(None);
        let end: End = Box::new(|prediction| {
            *kept.borrow_mut() = Some(prediction.clone());
            prediction.sum()
        });
        let texts = Texts { words, pooled: None };
        let stack = self.net.stack(&texts, step, self.attached, end);
        let (state, shared) = stack.begin();
        let state = (0..BLOCKS).fold(state, |state, index| stack.block(index, state, &shared));
        let _ = stack.loss(state, &shared);
        drop(stack);
        kept.into_inner().unwrap()
    }
}

/// Rows of a table.
#[derive(Debug)]
struct Words {
    tokenizer: Tokenizer,
    table: Tensor<2>,
}

impl TextEncoder for Words {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn table(&self) -> [usize; 2] {
        [ROWS, WIDTH]
    }

    fn embed(&self, tokens: &Tokens) -> Tensor<3> {
        let ids: Vec<i32> = tokens.ids.iter().flatten().map(|&id| (id as usize % ROWS) as i32).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [ids.len()]), &device());
        self.table.clone().select(0, ids).reshape([tokens.ids.len(), tokens.limit(), WIDTH])
    }

    fn encode(&self, embedded: Tensor<3>, _: &Tokens, _: usize, _: &Attachments) -> Texts {
        Texts { words: embedded, pooled: None }
    }
}

/// Means of squares of pixels.
#[derive(Debug)]
struct Squares;

impl Autoencoder for Squares {
    fn encode(&self, videos: Tensor<5>) -> Tensor<5> {
        let [count, colours, frames, height, width] = videos.dims();
        let [rows, columns] = [height / SIDE, width / SIDE];
        let squares = videos.reshape([count * colours * frames, rows, SIDE, columns, SIDE]);
        let means = squares.mean_dim(4).mean_dim(2).reshape([count, colours, frames, rows, columns]);
        let grey = means.clone().mean_dim(1);
        Tensor::cat(vec![means, grey], 1)
    }

    fn decode(&self, latents: Tensor<5>, _: Option<usize>) -> Tensor<5> {
        let [count, _, frames, rows, columns] = latents.dims();
        let colours = latents.narrow(1, 0, 3).reshape([count * 3 * frames, rows, 1, columns, 1]);
        let large = colours.repeat_dim(2, SIDE).repeat_dim(4, SIDE);
        let large = large.reshape([count, 3, frames, rows * SIDE, columns * SIDE]);
        (large / 2.0 + 0.5).clamp(0.0, 1.0)
    }

    fn decode_frame(&self, latents: Tensor<5>, frame: usize) -> Tensor<4> {
        self.decode(latents.narrow(2, frame, 1), None).squeeze_dim(2)
    }
}

/// The family.
#[derive(Debug)]
struct Toy;

struct Opened {
    about: Arc<Description>,
    tokenizer: Tokenizer,
    weights: Checkpoint,
}

/// As a folder would say of an older text-to-image base.
fn scheduler() -> Scheduler {
    let config = serde_json::json!({
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "beta_end": 0.012, "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1,
    });
    Scheduler::from_config(config.as_object().unwrap(), "scheduler_config.json").unwrap()
}

fn sites() -> (BTreeMap<String, Vec<usize>>, Sites) {
    Probe::look(&device(), Net::new)
}

fn describe() -> Description {
    let (tensors, sites) = sites();
    Description {
        family: "toy",
        identity: "toy-1".to_owned(),
        model: None,
        naming: &NAMING,
        denoiser: "unet",
        sites: BTreeMap::from([("unet", sites)]),
        tensors,
        blocks: BLOCKS,
        scheduler: scheduler(),
        text_limit: WORDS,
        text_table: [ROWS, WIDTH],
        text_layers: 0,
        geometry: Geometry { channels: LATENTS, factors: [1, SIDE], patch: [1; 3], positions: [64; 3] },
        costs: Costs {
            halved: Halved::default(),
            text_encoder: 1 << 10,
            denoiser: 1 << 10,
            blocks: (1 << 9, BLOCKS),
            autoencoder: [0; 2],
            embedding: 0,
            word: 1.0,
            place: [200.0, 0.0],
            hidden: WIDTH,
            block: 4 * WIDTH,
            denoising: 4 * WIDTH,
            decoding: 8,
            pixel: 8.0,
            matrix: [64, 64],
        },
        usual: Usual { size: [3, 16, 16], steps: 4, guidance: 2.0, fps: 8.0, enlarged: 1, small: true },
    }
}

impl Family for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn networks(&self, _: &Checkpoint) -> Vec<Network> {
        Vec::new()
    }

    fn pipeline(&self) -> &'static str {
        "ToyPipeline"
    }

    fn classes(&self) -> &'static [&'static str] {
        &["ToyNet"]
    }

    fn published(&self, _: Network) -> (&'static str, &'static str) {
        ("toy.safetensors", "toy")
    }

    fn recognize(&self, _: &Checkpoint, _: Option<&Source>) -> Vec<Recognized> {
        Vec::new()
    }

    fn open(
        &self,
        source: &Source,
        device: &burn::tensor::Device,
    ) -> understudy_pipeline::Result<Option<Box<dyn OpenBase>>> {
        let Source::Files(files) = source else { return Ok(None) };
        if files.object("model_index.json")?.get("_class_name") != Some(&"ToyPipeline".into()) {
            return Ok(None);
        }
        let weights = files.open("unet/diffusion_pytorch_model.safetensors", device)?;
        let tokenizer = Tokenizer::load(files)?;
        Ok(Some(Box::new(Opened { about: Arc::new(describe()), tokenizer, weights })))
    }

    fn model_of(&self, _: &[(&str, [usize; 2])]) -> Option<&'static str> {
        None
    }

    fn naming(&self) -> &'static Naming {
        &NAMING
    }
}

impl OpenBase for Opened {
    fn about(&self) -> &Arc<Description> {
        &self.about
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn load(self: Box<Self>, _: LoadOptions) -> understudy_pipeline::Result<Base> {
        let weights = Weights::new(&self.weights, &device());
        let table = weights.tensor("words", [ROWS, WIDTH], Init::Normal(1.0));
        let net = Net::new(&weights);
        weights.finish()?;
        let networks = Networks {
            text: Arc::new(Words { tokenizer: self.tokenizer, table }),
            denoiser: Arc::new(net),
            vae: Arc::new(Squares),
        };
        Ok(Base { about: self.about, networks, device: device(), blocks_on_host: 0 })
    }
}

/// A folder of the family, with random weights.
fn folder() -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    let at = |name: &str| target.path().join(name);
    for name in ["unet", "tokenizer"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("model_index.json"), r#"{"_class_name": "ToyPipeline"}"#).unwrap();
    let tokenizer = "tokenizer/tokenizer.json";
    std::fs::copy(golden("wan_pipeline_a").join(tokenizer), at(tokenizer)).unwrap();
    let start = Initializer::new(3, &device());
    let weights = Weights::new(&start, &device());
    let _: Tensor<2> = weights.tensor("words", [ROWS, WIDTH], Init::Normal(1.0));
    Net::new(&weights);
    drop(weights);
    let parameters: Parameters = start.into_parameters();
    understudy_engine::safetensors::write(
        &at("unet/diffusion_pytorch_model.safetensors"),
        &parameters.to_named_values(),
        BTreeMap::new(),
        Precision::F32,
    )
    .unwrap();
    target
}

fn load(folder: &tempfile::TempDir) -> Base {
    let families: Vec<&'static dyn Family> = FAMILIES.iter().copied().chain([&Toy as &dyn Family]).collect();
    let source = Source::Files(Files::folder(folder.path()));
    let opened = source.open_among(&families, &device()).unwrap();
    assert_eq!(opened.about().family, "toy");
    opened.load(LoadOptions::default()).unwrap()
}

fn subject(base: &Base) -> Subject {
    let image = Image::from_fn(20, 16, |x, y| [250, (x * 9) as u8, (y * 9) as u8]);
    let picture = understudy_media::Picture { image, mask: None };
    let size = base.about.usual.size;
    Subject::from_pictures(&[picture], "ball", "<s>", [size[1], size[2]]).unwrap()
}

fn on(_: understudy_pipeline::Event) -> std::ops::ControlFlow<()> {
    std::ops::ControlFlow::Continue(())
}

fn request(prompt: &str) -> Request {
    Request { frames: 3, height: 16, width: 16, steps: 4, guidance: 2.0, ..Request::new(prompt) }
}

#[test]
fn a_family_of_another_kind_generates_and_is_fitted() {
    let files = folder();
    // The families there are say so of a folder that none of them has.
    let message = Source::Files(Files::folder(files.path())).open(&device()).unwrap_err().to_string();
    assert!(message.contains("ToyPipeline") && message.contains("WanPipeline"), "{message}");

    let base = load(&files);
    let plain = values(generate(&base, &request("a red ball"), &mut on).unwrap().frames);
    assert!(plain.iter().all(|value| (0.0..=1.0).contains(value)));
    let other = values(generate(&base, &request("a blue cube"), &mut on).unwrap().frames);
    assert_ne!(plain, other);
    for sampler in Sampler::ALL {
        let request = Request { sampler: Some(sampler), ..request("a red ball") };
        let made = generate(&base, &request, &mut on).map(|output| values(output.frames));
        match made {
            Ok(frames) => {
                assert!(frames.iter().all(|value| value.is_finite()), "{sampler}");
                assert_eq!(frames == plain, sampler == Sampler::Ddim, "{sampler}");
                let again = values(generate(&base, &request, &mut on).unwrap().frames);
                assert_eq!(frames, again, "{sampler}");
            }
            Err(error) => {
                assert_eq!(sampler, Sampler::UniPc);
                assert!(error.to_string().contains("this base is of diffusion"), "{error}");
            }
        }
    }

    let mut table = Table::new();
    for (name, value) in [
        ("size", "[16, 16]"),
        ("rank", "2"),
        ("replay", "true"),
        ("augmentation", "{versions = 1, held = 0}"),
    ] {
        table.insert(name.to_owned(), toml::from_str::<Table>(&format!("x = {value}")).unwrap()["x"].clone());
    }
    for stage in ["token", "lora"] {
        let steps = "steps = 5\nbatch = 1\nwarmup = 1\ncheckpoint_every = 2";
        table.insert(stage.to_owned(), toml::Value::Table(toml::from_str(steps).unwrap()));
    }
    table.insert("prior".to_owned(), toml::Value::Table(toml::from_str("weight = 0.0").unwrap()));
    table.insert("samples".to_owned(), toml::Value::Table(toml::from_str("every = 0").unwrap()));
    let subject = subject(&base);
    let run = tempfile::tempdir().unwrap();
    let job = Job { base: &base, base_name: "toy", subject: &subject, others: &[], folder: run.path() };
    let lora: &dyn Method = &Lora;
    let settings = lora.settings(Preset::of(&base.about), &table).unwrap();
    lora.check_base(&settings, &base.about).unwrap();
    let plan = lora.plan(&job, &settings).unwrap();
    assert_eq!((plan.sites, plan.pictures, plan.replayed), (2 * BLOCKS, 1, true));
    // B and A of each map, and a row.
    assert_eq!(plan.parameters, 2 * BLOCKS * 2 * (WIDTH + WIDTH) + WIDTH);
    let adapter = lora.fit(&job, &settings, None, &mut go).unwrap();
    assert_eq!(adapter.residuals.len(), 2 * BLOCKS);
    for (site, residual) in &adapter.residuals {
        assert!(values(residual.up.clone()).iter().all(|x| x.is_finite() && *x != 0.0), "{site}");
    }

    // Kept activations give the gradients of replayed blocks.
    table.insert("replay".to_owned(), toml::Value::Boolean(false));
    let kept = tempfile::tempdir().unwrap();
    let settings = lora.settings(Preset::of(&base.about), &table).unwrap();
    let without = lora.fit(&Job { folder: kept.path(), ..job }, &settings, None, &mut go).unwrap();
    for (site, residual) in &adapter.residuals {
        let [replayed, kept] = [residual, &without.residuals[site]].map(|own| values(own.up.clone()));
        assert!(common::error(&replayed, &kept) < 1e-4, "{site}");
    }

    // Every dialect's names derive from the family's table.
    let use_of = |adapter: &Adapter| {
        let attached = Attached::one("unet", adapter.attachments(1.0));
        let token_embeddings = adapter.token_embeddings();
        let request = Request { attached, token_embeddings, ..request("a red <s> ball") };
        values(generate(&base, &request, &mut on).unwrap().frames)
    };
    let expected = use_of(&adapter);
    assert_ne!(expected, plain);
    for dialect in Dialect::ALL {
        let path = run.path().join("a.safetensors");
        adapter.save(&path, dialect, Precision::F32).unwrap();
        let loaded = Adapter::load(&path, &base).unwrap();
        assert!(common::error(&use_of(&loaded), &expected) < 1e-6, "{dialect:?}");
    }
}

/// A method that learns how bright its subject is, and adds that to what the first map gives.
#[derive(Debug)]
struct Brightness;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrightnessSettings {
    size: [usize; 2],
    strength: f64,
}

impl Recipe for Brightness {
    type Settings = BrightnessSettings;

    fn name(&self) -> &'static str {
        "brightness"
    }

    fn about(&self) -> &'static str {
        "how bright the subject is"
    }

    fn preset(&self, preset: Preset) -> BrightnessSettings {
        let size = if preset == Preset::Small { [16, 16] } else { [480, 832] };
        BrightnessSettings { size, strength: 1.0 }
    }

    fn check(&self, settings: &BrightnessSettings) -> understudy_personalize::Result<()> {
        match settings.strength {
            0.0..=4.0 => Ok(()),
            _ => Err(Error::Config { field: "strength".into(), reason: "must be 0 to 4".into() }),
        }
    }

    fn check_base(
        &self,
        settings: &BrightnessSettings,
        about: &Description,
    ) -> understudy_personalize::Result<()> {
        let [height, width] = settings.size;
        about.geometry.latents([1, height, width])?;
        Ok(())
    }

    fn subject_options(&self, settings: &BrightnessSettings, about: &Description) -> SubjectOptions {
        SubjectOptions { size: settings.size, ..Learning::small().subject_options(about) }
    }

    fn plan(&self, job: &Job, _: &BrightnessSettings) -> understudy_personalize::Result<Plan> {
        Ok(Plan {
            method: Recipe::name(self),
            pictures: job.subject.pictures.len(),
            clips: 0,
            left_out: Vec::new(),
            notes: Vec::new(),
            sites: 1,
            parameters: 1,
            stages: Vec::new(),
            tokens: 0,
            replayed: false,
            memory: 0,
            seconds: 0.0,
        })
    }

    fn fit(
        &self,
        job: &Job,
        settings: &BrightnessSettings,
        _: Option<&dyn Judge>,
        emit: Emit,
    ) -> understudy_personalize::Result<Adapter> {
        let plan = Recipe::plan(self, job, settings)?;
        let _ = emit(&FitEvent::Plan { event: "fit", plan });
        let (site, shape) = job.base.about.denoiser_sites().maps.iter().next().unwrap();
        let [outputs, inputs] = shape.shape;
        let residual = Residual {
            down: Tensor::ones([1, inputs], &device()),
            up: Tensor::ones([outputs, 1], &device()) * settings.strength as f32,
            alpha: 1.0,
            kernel: None,
        };
        let residuals = BTreeMap::from([(site.clone(), residual)]);
        let metadata = Metadata::new(Recipe::name(self), &residuals);
        Ok(Adapter { metadata, residuals, naming: Some(job.base.about.naming), ..Adapter::default() })
    }

    fn apply(
        &self,
        adapter: &Adapter,
        with: &Table,
        _: &Base,
        request: &mut Request,
    ) -> understudy_personalize::Result<Option<Arc<dyn understudy_personalize::Applied>>> {
        let times = with.get("times").and_then(toml::Value::as_float).unwrap_or(1.0);
        request.attached.add("unet", adapter.attachments(times as f32));
        Ok(None)
    }
}

#[test]
fn a_method_of_another_kind_is_found_checked_fitted_and_used() {
    let methods: Vec<&'static dyn Method> =
        METHODS.iter().copied().chain([&Brightness as &dyn Method]).collect();
    let method = method_among(&methods, "brightness").unwrap();
    let message = method_among(&methods, "brihgtness").unwrap_err().to_string();
    assert!(message.contains("brightness") && message.contains("lora"), "{message}");

    let over = |text: &str| method.settings(Preset::Small, &toml::from_str(text).unwrap());
    let message = over("strength = 5.0").unwrap_err().to_string();
    assert!(message.contains("strength") && message.contains("0 to 4"), "{message}");
    assert!(over("strenght = 1.0").unwrap_err().to_string().contains("strenght"));
    let settings = over("strength = 0.5").unwrap();

    let files = folder();
    let base = load(&files);
    method.check_base(&settings, &base.about).unwrap();
    let subject = subject(&base);
    let run = tempfile::tempdir().unwrap();
    let job = Job { base: &base, base_name: "toy", subject: &subject, others: &[], folder: run.path() };
    let mut events = 0;
    let adapter = method
        .fit(&job, &settings, None, &mut |_| {
            events += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((events, adapter.metadata.method.as_str()), (1, "brightness"));

    let made = |with: &str| {
        let mut asked = request("a red ball");
        let with: Table = toml::from_str(with).unwrap();
        assert!(method.apply(&adapter, &with, &base, &mut asked).unwrap().is_none());
        values(generate(&base, &asked, &mut on).unwrap().frames)
    };
    let plain = values(generate(&base, &request("a red ball"), &mut on).unwrap().frames);
    assert_eq!(made("times = 0.0"), plain);
    assert!(made("") != plain && made("") != made("times = 2.0"));
}

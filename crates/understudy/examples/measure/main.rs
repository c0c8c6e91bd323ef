//! Measures `nano` and its judges on the puppet world: the figures of docs/results.md.
//!
//! ```text
//! cargo run --release --example measure -- autoencoder | identity | retrieval | frechet | lora | matches | readability | savings | composition [--count N] [--first N] [--save FOLDER]
//! ```
//! Each prints one JSON object. All seeds are fixed. `--base FOLDER` measures another base by the embedded
//! judges, and `--autoencoder FOLDER` another autoencoder, as `pretrain` exports them.

mod autoencoder;
mod composition;
mod matches;
mod readability;
mod savings;

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use understudy_engine::host;
use understudy_engine::weights::Weights;
use understudy_evaluate::{Judges, bootstrap, frechet_distance, retrieval_accuracy};
use understudy_media::{Image, Picture, Range, Video};
use understudy_models::iresnet::{IResNet, IResNetConfig};
use understudy_personalize::{Adapter, DEFAULT_TOKEN, Job, Learning, Lora, Recipe, Subject, combine};
use understudy_pipeline::{Base, Files, Request, generate};
use understudy_puppet::{Action, Identity, Scenario, Scene, Size, Split, World};
use understudy_train::pretrain::{Clips, Strangers, verification_accuracy};

const SIZE: [usize; 3] = [17, 64, 64];
const STEPS: usize = 20;
const GUIDANCE: f32 = 4.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after =
        |flag: &str| arguments.iter().position(|own| own == flag).and_then(|at| arguments.get(at + 1));
    let count: Option<u64> = after("--count").and_then(|count| count.parse().ok());
    let measure = Measure::load(after("--base").map(Path::new))?;
    let figures = match arguments.first().map(String::as_str) {
        Some("autoencoder") => {
            let network = match (after("--autoencoder"), after("--base")) {
                (Some(folder), _) => autoencoder::open(Path::new(folder), &measure.device)?,
                (None, Some(base)) => autoencoder::open(&Path::new(base).join("vae"), &measure.device)?,
                (None, None) => autoencoder::of(&measure.files, "vae/", &measure.device)?,
            };
            let network = &network;
            if let Some(folder) = after("--save") {
                autoencoder::sheets(&measure, network, 8, Path::new(folder))?;
            }
            autoencoder::autoencoder(&measure, network, count.unwrap_or(64))?
        }
        Some("identity") => measure.identity(count.unwrap_or(2000))?,
        Some("retrieval") => measure.retrieval(count.unwrap_or(64))?,
        Some("frechet") => measure.frechet(count.unwrap_or(1024))?,
        Some("lora") => measure.lora(count.unwrap_or(10))?,
        Some("matches") => matches::matches(&measure.base, count.unwrap_or(26))?,
        Some("composition") => {
            let first: u64 = after("--first").and_then(|first| first.parse().ok()).unwrap_or(0);
            let pairs = first..first + count.unwrap_or(4);
            composition::composition(&measure, pairs, after("--save").map(Path::new))?
        }
        Some("readability") => {
            let judge = after("--parts").context("--parts FOLDER: the export of recipes/parts.toml")?;
            readability::readability(&measure, Path::new(judge), count.unwrap_or(64))?
        }
        Some("savings") => savings::savings(&measure, count.unwrap_or(32))?,
        _ => bail!(
            "name a measure: autoencoder, identity, retrieval, frechet, lora, matches, readability, savings or composition"
        ),
    };
    println!("{figures:#}");
    Ok(())
}

struct Measure {
    files: Files,
    base: Base,
    judges: Judges,
    clips: Clips,
    device: Device,
}

impl Measure {
    fn load(base: Option<&Path>) -> Result<Self> {
        let device = Device::flex();
        let files = Files::Embedded { name: understudy_nano::NAME, files: understudy_nano::FILES };
        let base = match base {
            Some(folder) => Base::load(&Files::folder(folder), &device).context("--base")?,
            None => Base::load(&files, &device)?,
        };
        Ok(Self { base, judges: Judges::load(&files, &device)?, clips: Clips::new(SIZE)?, files, device })
    }

    /// Verification accuracy of both identity encoders.
    fn identity(&self, pairs: u64) -> Result<Value> {
        let mut figures = serde_json::Map::new();
        for name in ["identity", "identity-reward"] {
            let folder = format!("judges/{name}");
            let config: IResNetConfig =
                serde_json::from_slice(&self.files.read(&format!("{folder}/config.json"))?)?;
            let checkpoint = self.files.checkpoint(&format!("{folder}/model.safetensors"), &self.device)?;
            let weights = Weights::new(&checkpoint, &self.device);
            let network = IResNet::new(&weights, &config);
            weights.finish()?;
            let accuracy = |strangers| verification_accuracy(&network, pairs, strangers, &self.device);
            let found = json!({
                "any": accuracy(Strangers::Any)?,
                "same_class": accuracy(Strangers::SameClass)?,
            });
            figures.insert(name.into(), found);
        }
        figures.insert("pairs".into(), json!(pairs));
        Ok(Value::Object(figures))
    }

    fn real(&self, scenario: &Scenario) -> Result<Vec<Image>> {
        let clip = self.clips.render(scenario);
        let frames = clip.frames.chunks_exact(SIZE[1] * SIZE[2] * 3);
        Ok(frames.map(|rgb| Image::new(SIZE[2], SIZE[1], rgb.to_vec())).collect::<Result<_, _>>()?)
    }

    /// A clip for each prompt, the first with `seed`, the next with the one after it.
    fn generated(
        &self,
        prompts: &[String],
        seed: u64,
        adapters: &[(Adapter, f32)],
    ) -> Result<Vec<Vec<Image>>> {
        let (attached, token_embeddings) = combine(adapters, &self.base.about)?;
        let [frames, height, width] = SIZE;
        let mut clips = Vec::new();
        for (batch, prompts) in prompts.chunks(BATCH).enumerate() {
            let request = Request {
                prompts: prompts.to_vec(),
                frames,
                height,
                width,
                steps: STEPS,
                guidance: GUIDANCE,
                seed: seed + (batch * BATCH) as u64,
                attached: attached.clone(),
                token_embeddings: token_embeddings.clone(),
                ..Request::new("")
            };
            let output = generate(&self.base, &request, &mut |_| std::ops::ControlFlow::Continue(()))?;
            clips.extend(clips_of(output.frames)?);
        }
        Ok(clips)
    }

    /// Embeddings of clips by the small CLIP.
    fn embed(&self, clips: &[Vec<Image>]) -> Result<Vec<Vec<f32>>> {
        clips.iter().map(|clip| Ok(self.judges.clip_video_embedding(clip)?)).collect()
    }

    /// Retrieval of the right one among 64 held-out prompts: for real clips, for what the autoencoder makes
    /// of them, and for generated ones.
    fn retrieval(&self, count: u64) -> Result<Value> {
        let scenarios: Vec<Scenario> = (0..count).map(|i| self.clips.scenario(Split::HeldOut, i)).collect();
        let captions: Vec<String> = scenarios.iter().map(Scenario::caption).collect();
        let texts = self.judges.clip.embed_texts(&captions.iter().map(String::as_str).collect::<Vec<_>>())?;
        let real = scenarios.iter().map(|scenario| self.real(scenario)).collect::<Result<Vec<_>>>()?;
        let mut coded = Vec::new();
        for scenario in &scenarios {
            let video = self.clips.batch(std::slice::from_ref(scenario), 0, SIZE[0]).video(&self.device);
            coded.extend(clips_of(self.base.networks.vae.decode(self.base.encode(video)?, None))?);
        }
        let generated = self.generated(&captions, 0, &[])?;
        let accuracy =
            |clips: &[Vec<Image>]| -> Result<f64> { Ok(retrieval_accuracy(&self.embed(clips)?, &texts)?) };
        let [real, coded, generated] = [accuracy(&real)?, accuracy(&coded)?, accuracy(&generated)?];
        Ok(json!({
            "real": real, "autoencoded": coded, "generated": generated, "ratio": generated / real,
            "prompts": count,
        }))
    }

    /// Frechet distance of the video features of generated and real clips, beside that of two real sets.
    fn frechet(&self, count: u64) -> Result<Value> {
        let real = |first: u64| -> Result<Vec<Vec<f32>>> {
            let clips = (first..first + count).map(|i| self.real(&self.clips.scenario(Split::HeldOut, i)));
            self.embed(&clips.collect::<Result<Vec<_>>>()?)
        };
        let [one, two] = [real(0)?, real(count)?];
        let captions: Vec<String> =
            (0..count).map(|index| self.clips.scenario(Split::HeldOut, index).caption()).collect();
        let generated = self.embed(&self.generated(&captions, 0, &[])?)?;
        Ok(json!({
            "generated_to_real": frechet_distance(&generated, &one)?,
            "real_to_real": frechet_distance(&two, &one)?,
            "clips": count,
        }))
    }

    /// The baseline LoRA on held-out subjects: identity and text scores of the base and of the fitted base.
    fn lora(&self, subjects: u64) -> Result<Value> {
        let mut scores = [const { Vec::new() }; 4];
        for index in 0..subjects {
            let found = self.lora_subject(index)?;
            eprintln!(
                "subject {index}: identity {:.3} to {:.3}, text {:.3} to {:.3}",
                found[0], found[1], found[2], found[3]
            );
            for (all, value) in scores.iter_mut().zip(found) {
                all.push(value);
            }
        }
        let gain: Vec<f64> = scores[1].iter().zip(&scores[0]).map(|(fitted, base)| fitted - base).collect();
        let text: Vec<f64> = scores[3].iter().zip(&scores[2]).map(|(fitted, base)| fitted / base).collect();
        Ok(json!({
            "identity_base": bootstrap(&scores[0], 0.95, 0)?,
            "identity_fitted": bootstrap(&scores[1], 0.95, 0)?,
            "identity_gain": bootstrap(&gain, 0.95, 0)?,
            "text_base": bootstrap(&scores[2], 0.95, 0)?,
            "text_fitted": bootstrap(&scores[3], 0.95, 0)?,
            "text_ratio": bootstrap(&text, 0.95, 0)?,
            "subjects": subjects,
        }))
    }

    /// Mean identity of base and fitted, and mean text score of base and fitted, over ten prompts.
    fn lora_subject(&self, index: u64) -> Result<[f64; 4]> {
        let identity = Identity::from_index(Split::HeldOut, 100 + index);
        let world = World::new(Size::new(1, SIZE[1], SIZE[2]))?;
        let pictures: Vec<Image> = (0..6)
            .map(|seed| {
                Image::new(SIZE[2], SIZE[1], world.render(&Scenario::portrait(identity, seed)).frames)
            })
            .collect::<Result<_, _>>()?;
        let subject_pictures: Vec<Picture> =
            pictures.iter().map(|image| Picture { image: image.clone(), mask: None }).collect();
        let class = identity.noun();
        let settings = Learning { bf16_products: true, ..Learning::small() };
        let subject = Subject::from_pictures(&subject_pictures, class, DEFAULT_TOKEN, settings.size)?;
        let folder = std::env::temp_dir().join(format!("understudy-measure-{}-{index}", std::process::id()));
        let job =
            Job { base: &self.base, base_name: "nano", subject: &subject, others: &[], folder: &folder };
        let go = &mut |_: &_| std::ops::ControlFlow::Continue(());
        let adapter = Lora.fit(&job, &settings, None, go)?;
        std::fs::remove_dir_all(&folder)?;

        let mut sums = [0.0; 4];
        let phrase = format!("{DEFAULT_TOKEN} {class}");
        let adapters = [(adapter, 1.0)];
        let prompts = |who: &str| -> Vec<String> {
            let prompt = |number: usize| {
                let scene = Scene::ALL[number % Scene::ALL.len()];
                let action = Action::ALL[number % Action::ALL.len()];
                format!("a {who} {} {}", verb(action), scene.phrase())
            };
            (0..PROMPTS).map(prompt).collect()
        };
        let plain = prompts(class);
        let base = self.generated(&plain, 0, &[])?;
        let fitted = self.generated(&prompts(&phrase), 0, &adapters)?;
        for ((base, fitted), prompt) in base.iter().zip(&fitted).zip(&plain) {
            sums[0] += self.judges.identity_similarity(base, &pictures)?;
            sums[1] += self.judges.identity_similarity(fitted, &pictures)?;
            sums[2] += self.judges.clip_text_score(base, prompt)?;
            sums[3] += self.judges.clip_text_score(fitted, prompt)?;
        }
        Ok(sums.map(|sum| sum / PROMPTS as f64))
    }
}

/// Prompts a subject is generated with.
const PROMPTS: usize = 10;
/// Clips generated at once.
const BATCH: usize = 8;

/// The clips of `frames (clips, 3, frames, rows, columns)` in [0, 1].
fn clips_of(frames: Tensor<5>) -> Result<Vec<Vec<Image>>> {
    let each: usize = 3 * SIZE.iter().product::<usize>();
    let values = host::values(frames);
    let clip = |planar: &[f32]| Ok(Video::from_planar(planar, SIZE, 8.0, Range::Unit)?.frames);
    values.chunks_exact(each).map(clip).collect()
}

/// A verb phrase of the world's captions.
fn verb(action: Action) -> &'static str {
    match action {
        Action::WalkLeft => "walks to the left",
        Action::WalkRight => "walks to the right",
        Action::RunLeft => "runs to the left",
        Action::RunRight => "runs to the right",
        Action::Jump => "jumps",
        Action::Wave => "waves",
        Action::Spin => "spins around",
        Action::Nod => "nods",
        _ => "dances",
    }
}

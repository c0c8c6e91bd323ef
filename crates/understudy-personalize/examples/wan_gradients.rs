//! One LoRA step on a large denoiser against peft: the gradients' cosines, the time and the peak of memory.
//!
//!     python oracle/wan_size.py make FOLDER && python oracle/wan_size.py lora FOLDER
//!     cargo run --release --example wan_gradients -- FOLDER [BLOCKS_ON_HOST]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attached, Window};
use understudy_engine::host::values;
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{Probe, Weights};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_personalize::{Basis, NoisyBatch, Residuals};
use understudy_pipeline::families::wan::denoiser;
use understudy_pipeline::{Level, Texts};

const SIGMA: f32 = 0.6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give the folder that oracle/wan_size.py made")?;
    let on_host = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let (folder, device) = (Path::new(&folder), Device::flex());
    let text = std::fs::read(folder.join("transformer/config.json"))?;
    let config: WanTransformerConfig = serde_json::from_slice(&text)?;
    let start = Instant::now();
    let file = folder.join("transformer/diffusion_pytorch_model.safetensors");
    let weights = Weights::streamed(Arc::new(Checkpoint::open(&file, &device)?), &device, on_host);
    let transformer = WanTransformer::new(&weights, &config);
    weights.finish()?;
    println!("loaded in {:.1} s", start.elapsed().as_secs_f64());

    let io = Checkpoint::open(&folder.join("gradients.safetensors"), &device)?;
    let five = |name: &str| -> Result<Tensor<5>, Box<dyn Error>> {
        let (values, shape) = io.values(name)?;
        let shape: [usize; 5] = shape.try_into().map_err(|_| "not five dimensions")?;
        Ok(Tensor::from_data(TensorData::new(values, shape), &device))
    };
    let (text, shape) = io.values("text")?;
    let text = Tensor::<3>::from_data(TensorData::new(text, shape), &device);
    let levels = vec![Level::flow(SIGMA)];
    let batch = NoisyBatch { latents: five("x0")?, noise: five("noise")?, levels, weights: None };

    let mut parameters = Parameters::new();
    let mut rank = 0;
    for info in io.infos() {
        let Some(name) = info.name.strip_prefix("value.") else { continue };
        parameters.insert(name, &info.shape, io.values(&info.name)?.0, &device);
        if name.ends_with("lora_A") {
            rank = info.shape[0];
        }
    }
    let sites: BTreeMap<_, _> = Probe::sites(&device, |weights| WanTransformer::new(weights, &config))
        .maps
        .into_iter()
        .filter(|(site, _)| parameters.get(&Residuals::names(site)[0]).is_some())
        .collect();
    let residuals =
        Residuals { sites, rank, alpha: rank as f32, window: Window::ALWAYS, basis: Basis::Input };

    let start = Instant::now();
    let leaves = parameters.leaves();
    let denoiser = denoiser(transformer);
    let attached = Attached::one(denoiser.name(), residuals.attach(&leaves));
    let texts = Texts { words: text, pooled: None };
    let conditions = (&texts, &attached, 0.0);
    let (loss, gradients) = batch.gradients(denoiser.as_ref(), conditions, (&leaves, true), 1.0);
    println!("one step in {:.1} s", start.elapsed().as_secs_f64());
    println!("loss {loss:.6}, peft's {:.6}", io.values("loss")?.0[0]);
    let mut cosines = Vec::new();
    for (name, gradient) in &gradients {
        cosines.push(cosine(&values(gradient.clone()), &io.values(&format!("grad.{name}"))?.0));
    }
    let worst = cosines.iter().copied().fold(1.0, f64::min);
    println!("{} of {} gradients, smallest cosine {worst:.6}", cosines.len(), parameters.iter().count());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

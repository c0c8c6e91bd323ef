//! Times guided denoising steps of a UNet at its own size: `cargo run --release -p understudy-models
//! --example sd_unet_step -- FOLDER [STEPS [OUT.safetensors]]`. The folder is made by `oracle/sd_size.py make
//! FOLDER`; with a third argument the prediction is written as `output`, for `oracle/sd_size.py compare`.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::allocator::Allocator;
use understudy_engine::attach::Attachments;
use understudy_engine::memory;
use understudy_engine::safetensors::{Checkpoint, NamedValues, Precision, write};
use understudy_engine::weights::Weights;
use understudy_models::sd_unet::SdUnet;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: sd_unet_step FOLDER [STEPS [OUT.safetensors]]")?;
    let steps: usize = arguments.next().map_or(Ok(4), |steps| steps.parse())?;
    let (folder, device) = (Path::new(&folder), Device::flex());
    let checkpoint = Checkpoint::open(&folder.join("diffusion_pytorch_model.safetensors"), &device)?;
    let weights = Weights::new(&checkpoint, &device);
    let config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json"))?)?;
    let network = SdUnet::new(&weights, &config);
    weights.finish()?;
    drop(checkpoint);
    memory::release();

    let inputs = Checkpoint::open(&folder.join("inputs.safetensors"), &device)?;
    let (sample, shape) = inputs.values("sample")?;
    let sample = Tensor::<4>::from_data(TensorData::new(sample, shape), &device);
    let (text, shape) = inputs.values("encoder_hidden_states")?;
    let text = Tensor::<3>::from_data(TensorData::new(text, shape), &device);
    let (times, _) = inputs.values("timestep")?;
    let mut output = None;
    for _ in 0..steps {
        let begun = Instant::now();
        output = Some(network.forward(sample.clone(), &times, text.clone(), &Attachments::none()));
        println!("{{\"event\":\"step\",\"seconds\":{:.4}}}", begun.elapsed().as_secs_f64());
    }
    if let (Some(path), Some(output)) = (arguments.next(), output) {
        let shape = output.dims().to_vec();
        let values = output.into_data().try_into_vec::<f32>().map_err(|error| format!("{error:?}"))?;
        let output = NamedValues { name: "output".into(), shape, values };
        write(Path::new(&path), &[output], Default::default(), Precision::F32)?;
    }
    Ok(())
}

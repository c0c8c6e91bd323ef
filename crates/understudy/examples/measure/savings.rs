//! What savings that change the video cost, and what they save.

use std::ops::ControlFlow;

use anyhow::Result;
use serde_json::{Value, json};
use understudy_engine::attach::Window;
use understudy_engine::host;
use understudy_evaluate::bootstrap;
use understudy_pipeline::{Event, Request, generate};
use understudy_puppet::Split;

use super::{GUIDANCE, Measure, SIZE, STEPS, clips_of};

/// What is left out: how much the first block may change, where guidance is active, and how many steps there
/// are.
struct Saving {
    name: &'static str,
    block_reuse: Option<f32>,
    guidance: [f32; 2],
    steps: usize,
}

const fn saving(name: &'static str, block_reuse: Option<f32>, guidance: [f32; 2], steps: usize) -> Saving {
    Saving { name, block_reuse, guidance, steps }
}

const ALWAYS: [f32; 2] = [0.0, 1.0];
const SAVINGS: [Saving; 12] = [
    saving("nothing", None, ALWAYS, STEPS),
    saving("block-reuse 0.1", Some(0.1), ALWAYS, STEPS),
    saving("block-reuse 0.15", Some(0.15), ALWAYS, STEPS),
    saving("block-reuse 0.2", Some(0.2), ALWAYS, STEPS),
    saving("block-reuse 0.3", Some(0.3), ALWAYS, STEPS),
    saving("block-reuse 0.4", Some(0.4), ALWAYS, STEPS),
    saving("guidance-end 0.8", None, [0.0, 0.8], STEPS),
    saving("guidance-end 0.5", None, [0.0, 0.5], STEPS),
    saving("guidance-start 0.2", None, [0.2, 1.0], STEPS),
    saving("16 steps", None, ALWAYS, 16),
    saving("12 steps", None, ALWAYS, 12),
    saving("8 steps", None, ALWAYS, 8),
];

/// A video that was made.
struct Made {
    seconds: f64,
    /// Steps that went through the first block alone.
    skipped: usize,
    frames: Vec<f32>,
    text: f64,
}

/// For each saving, of the same prompts and seeds: the seconds of denoising in parts of those without it, the
/// share of steps that skipped blocks, the distance of frames from those without it in dB, and the difference
/// of the text score.
pub(crate) fn savings(measure: &Measure, count: u64) -> Result<Value> {
    let captions: Vec<String> =
        (0..count).map(|index| measure.clips.scenario(Split::HeldOut, index).caption()).collect();
    let mut figures = serde_json::Map::new();
    let mut whole: Vec<Made> = Vec::new();
    for own in &SAVINGS {
        let [mut times, mut skipped, mut distances, mut texts] = [const { Vec::new() }; 4];
        for (index, caption) in captions.iter().enumerate() {
            let found = video(measure, own, caption, index as u64)?;
            if own.name == "nothing" {
                whole.push(found);
                continue;
            }
            let plain = &whole[index];
            times.push(found.seconds / plain.seconds);
            skipped.push(found.skipped as f64 / own.steps as f64);
            let squares = plain.frames.iter().zip(&found.frames).map(|(a, b)| f64::from(a - b).powi(2));
            let error = squares.sum::<f64>() / plain.frames.len() as f64;
            distances.push(-10.0 * error.max(1e-10).log10());
            texts.push(found.text - plain.text);
        }
        if times.is_empty() {
            let mean = |of: fn(&Made) -> f64| whole.iter().map(of).sum::<f64>() / count as f64;
            let (seconds, text) = (mean(|own| own.seconds), mean(|own| own.text));
            figures.insert(own.name.into(), json!({"seconds": seconds, "text": text}));
            continue;
        }
        let interval = |values: &[f64]| bootstrap(values, 0.95, 0);
        figures.insert(
            own.name.into(),
            json!({"time": interval(&times)?, "skipped": interval(&skipped)?.mean,
                "psnr": interval(&distances)?, "text": interval(&texts)?}),
        );
        eprintln!("{}: {}", own.name, figures[own.name]);
    }
    Ok(figures.into())
}

fn video(measure: &Measure, own: &Saving, caption: &str, seed: u64) -> Result<Made> {
    let [frames, height, width] = SIZE;
    let [start, end] = own.guidance;
    let request = Request {
        frames,
        height,
        width,
        steps: own.steps,
        guidance: GUIDANCE,
        guidance_window: Window { start, end },
        block_reuse: own.block_reuse,
        seed,
        ..Request::new(caption)
    };
    let (mut seconds, mut most) = (0.0, 0);
    let output = generate(&measure.base, &request, &mut |event| {
        if let Event::Step { elapsed, skipped, .. } = event {
            seconds += elapsed.as_secs_f64();
            most = skipped;
        }
        ControlFlow::Continue(())
    })?;
    let clip = clips_of(output.frames.clone())?.remove(0);
    let text = measure.judges.clip_text_score(&clip, caption)?;
    Ok(Made { seconds, skipped: most, frames: host::values(output.frames), text })
}

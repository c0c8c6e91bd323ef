//! How a video is made, in words that its file keeps and that make it again.

use std::fs::File;
use std::io;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use understudy_engine::device::DeviceName;
use understudy_media::Provenance;
use understudy_personalize::Adapter;
use understudy_pipeline::{Description, Request, without_weights};

use super::Generate;
use crate::context::Context;

/// What all videos of a command have in common.
pub struct Making {
    settings: Value,
    arguments: Vec<String>,
    /// What stands for subjects in prompts.
    tokens: Vec<String>,
    weighted: bool,
    /// Whether the seed decides the noise.
    seeded: bool,
}

impl Making {
    /// Of what `asked` comes to in `request`.
    ///
    /// # Errors
    /// When an adapter cannot be read any more.
    pub fn new(
        asked: &Generate,
        request: &Request,
        about: &Description,
        (adapters, context): (&[(Adapter, f32)], &Context),
    ) -> Result<Self> {
        let scheduler = request.scheduler(about)?;
        let fps = asked.sampling.fps.unwrap_or(about.usual.fps);
        let Request { frames, height, width, steps, guidance, .. } = request;
        let mut uses: Vec<Value> = Vec::new();
        for used in asked.adapters.uses(adapters, &[]) {
            uses.push(serde_json::to_value(used)?);
        }
        for (own, path) in uses.iter_mut().zip(asked.adapters.paths()).filter(|(_, path)| path.is_file()) {
            own["sha256"] = hash(path).with_context(|| format!("--adapter {}", path.display()))?.into();
        }
        let mut arguments = asked.base.arguments();
        arguments.extend(asked.adapters.arguments());
        if !asked.negative_prompt.is_empty() {
            add(&mut arguments, "--negative-prompt", &asked.negative_prompt);
        }
        arguments.extend(asked.prompt_weights.then(|| "--prompt-weights".to_owned()));
        arguments.extend(asked.sampling.arguments(
            request,
            (scheduler.sampler().name(), scheduler.shift()),
            fps,
        ));
        arguments.extend(asked.controls.arguments());
        arguments.extend(asked.warping.arguments());
        if let Some(path) = &asked.initial_noise {
            add(&mut arguments, "--initial-noise", &path.to_string_lossy());
        }
        if let Some(times) = asked.upscale {
            add(&mut arguments, "--upscale", &times.to_string());
        }
        if context.bf16 {
            add(&mut arguments, "--dtype", "bf16");
        }
        if context.device_name != DeviceName::Cpu {
            add(&mut arguments, "--device", &context.device_name.to_string());
        }
        let settings = json!({
            "negative_prompt": asked.negative_prompt, "base": asked.base.name(), "architecture": about.identity,
            "adapters": uses, "frames": frames, "height": height, "width": width, "steps": steps, "guidance": guidance,
            "scheduler": scheduler.sampler().name(), "shift": scheduler.shift(), "fps": fps,
        });
        Ok(Self {
            settings,
            arguments,
            tokens: adapters.iter().flat_map(|(own, _)| own.metadata.tokens.clone()).collect(),
            weighted: asked.prompt_weights,
            seeded: asked.initial_noise.is_none() || scheduler.solver().draws_noise(),
        })
    }

    /// Of the video of `prompt` with this seed.
    pub fn of(&self, prompt: &str, seed: u64) -> Provenance {
        let plain = if self.weighted { without_weights(prompt) } else { prompt.to_owned() };
        let caption = without_tokens(&plain, &self.tokens);
        let mut arguments = Vec::new();
        add(&mut arguments, "--prompt", prompt);
        if self.seeded {
            add(&mut arguments, "--seed", &seed.to_string());
        }
        arguments.extend_from_slice(&self.arguments);
        Provenance {
            made_by: concat!("understudy ", env!("CARGO_PKG_VERSION")).to_owned(),
            prompt: prompt.to_owned(),
            caption: (caption != prompt).then_some(caption),
            seed: self.seeded.then_some(seed),
            settings: self.settings.clone(),
            arguments,
        }
    }
}

/// Adds a flag and its value; one that looks like a flag is joined to its own.
pub fn add(arguments: &mut Vec<String>, flag: &str, value: &str) {
    if value.starts_with('-') {
        arguments.push(format!("{flag}={value}"));
    } else {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
}

/// `prompt` without the words that stand for subjects, as it is where it has none.
fn without_tokens(prompt: &str, tokens: &[String]) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in prompt.split_whitespace() {
        let rest = tokens.iter().filter_map(|token| word.strip_prefix(token.as_str()));
        match rest.min_by_key(|rest| rest.len()).filter(|rest| !rest.starts_with(char::is_alphanumeric)) {
            None => words.push(word.to_owned()),
            // "a red <s>, at night"
            Some(rest) => match words.last_mut() {
                Some(last) => last.push_str(rest),
                None if rest.is_empty() => {}
                None => words.push(rest.to_owned()),
            },
        }
    }
    words.join(" ")
}

/// The hash of a file that other programs tell adapters by.
fn hash(path: &std::path::Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_are_told_no_tokens() {
        let tokens = ["<s>", "<s2>", "sks"].map(str::to_owned);
        let plain = |prompt: &str| without_tokens(prompt, &tokens);
        assert_eq!(plain("a <s> cat and a <s2>, sks dog skst"), "a cat and a, dog skst");
        assert_eq!(plain("<s>"), "");
        assert_eq!(plain("<s> cat"), "cat");
        assert_eq!(plain("two cats"), "two cats");
    }

    #[test]
    fn values_that_look_like_flags_are_joined_to_theirs() {
        let mut arguments = Vec::new();
        add(&mut arguments, "--prompt", "-x");
        add(&mut arguments, "--prompt", "x");
        assert_eq!(arguments, ["--prompt=-x", "--prompt", "x"]);
    }
}

//! V-Warper's second stage: values of the subject's pictures, warped to where the video shows the subject
//! (Lee et al., "V-Warper", 2025; what it leaves open follows DreamMatcher, 2024).
//!
//! Beside every step of a generation the reference pictures go through the same denoiser at the same noise
//! level. Queries and keys of one self-attention, before their rotary embedding, say which place of which
//! picture every place of the video looks like. In the attentions after it, values of the video are replaced
//! by those of the pictures, where a match leads back to where it came from and both ends are on the subject.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Int, Tensor, TensorData};
use understudy_engine::attach::{
    Attached, Attachments, AttentionHook, AttentionInputs, Call, StateHook, Window,
};
use understudy_engine::host::values;
use understudy_engine::random::Random;
use understudy_engine::sites::{Role, Sites};
use understudy_pipeline::{
    Base, Companion, Denoiser, Level, Moment, PromptOptions, Step, Texts, TokenEmbeddings, encode_prompt,
    mixed,
};

use super::cache::{self, Cache, Seen};
use super::config::{Descriptor, Replaced, WarpConfig};
use super::matching::{Best, attention_to, descriptors, distance, foreground, pooled, scaled};
use crate::error::{Error, Result};

/// A picture of the subject as the denoiser knows it.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Normalized latents `(1, channels, frames, height, width)` of the picture, held still for as many
    /// frames as make these: the first latent of a clip is of another kind than those after it, which stand
    /// for several frames.
    pub latents: Tensor<5>,
    /// The subject's share of each latent place, row by row, if it is known.
    pub mask: Option<Vec<f32>>,
}

/// Where the places of a video were found in the references.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matches {
    /// Frames, rows and columns of the video's places.
    pub grid: [usize; 3],
    /// For each place the reference's place it looks most like: `reference * rows * columns + row * columns +
    /// column`.
    pub places: Vec<usize>,
    /// Whether it shows the subject.
    pub shown: Vec<bool>,
    /// Whether its match leads back to where it came from.
    pub back: Vec<bool>,
    /// Whether its values were replaced: it shows the subject, its match leads back, and is on the subject,
    /// too.
    pub used: Vec<bool>,
    /// Whether each of the references' places shows the subject.
    pub references: Vec<bool>,
}

/// The reference branch and what it has found so far.
#[derive(Debug)]
pub struct Warp {
    config: WarpConfig,
    /// `(references, channels, kinds, height, width)`, and noise of the same shape, the same at every step
    /// and for every seed: what the references show can be kept.
    latents: Tensor<5>,
    noise: Tensor<5>,
    /// The subject's share of each of the references' places, where it is known.
    masks: Vec<Option<Vec<f32>>>,
    /// What the denoiser reads of the references' text, and where in it the subject is named.
    texts: Texts,
    words: Vec<usize>,
    /// Where each prompt names the subject.
    prompts: Vec<Vec<usize>>,
    /// Frames, rows and columns of the video's places.
    grid: [usize; 3],
    /// Frames of the references: the first matches the first of a video, the last all that come after.
    kinds: usize,
    /// The denoiser's attentions and blocks.
    modules: Modules,
    /// Where places are compared as attention turns them.
    turning: Option<Turning>,
    /// What is attached to the networks for the subject.
    attached: Attached,
    state: Mutex<State>,
    /// What the references showed in earlier runs, if it is kept.
    cache: Option<Mutex<Cache>>,
}

/// The denoiser, which turns queries and keys, and the extents of the latents of references and videos.
type Turning = (Arc<dyn Denoiser>, [[usize; 5]; 2]);

/// The paths of the denoiser's attentions and of its blocks, in the order it runs them.
#[derive(Clone, Debug, Default)]
struct Modules {
    own: Vec<String>,
    to_text: Vec<String>,
    blocks: Vec<String>,
}

impl Modules {
    fn of(sites: &Sites) -> Self {
        let attentions = |role| sites.attentions(role).map(str::to_owned).collect();
        Self {
            own: attentions(Role::SelfAttention),
            to_text: attentions(Role::CrossAttention),
            blocks: sites.states(Role::Other).map(|state| state.path.clone()).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// What the reference branch saw at this step.
    references: Seen,
    /// The hidden states before the block that is matched, where they are compared: of the references, by
    /// kind, and of the videos `(samples, places, channels)`.
    hidden: Option<Tensor<3>>,
    /// Attention of each prompt's places to the subject's words, summed over the steps.
    seen: Vec<Vec<f32>>,
    matches: Vec<Matches>,
}

/// What a warp is made for.
pub struct WarpJob<'a> {
    /// The base.
    pub base: &'a Base,
    /// The subject's pictures; at least one.
    pub references: &'a [Reference],
    /// What is attached to the networks for the subject.
    pub attached: &'a Attached,
    /// The rows of its tokens.
    pub embeddings: Option<&'a TokenEmbeddings>,
    /// What prompts call it, e.g. `<s> cat`.
    pub phrase: &'a str,
    /// The prompts of the videos.
    pub prompts: &'a [String],
    /// Latent frames, rows and columns of the videos.
    pub latent_size: [usize; 3],
    /// A file for what the references show at each step, which is the same for every seed and prompt.
    pub cache: Option<&'a Path>,
}

impl WarpJob<'_> {
    /// That every prompt names the subject.
    ///
    /// # Errors
    /// When one does not.
    pub fn check_prompts(&self) -> Result<()> {
        self.prompts.iter().try_for_each(|prompt| named(self, prompt).map(drop))
    }
}

impl Warp {
    /// The warp of `job`, to be attached with [`Warp::attach`] and run beside the generation as its
    /// [`Companion`].
    ///
    /// # Errors
    /// When a setting is out of its range, there is no reference, they are of another size than the videos,
    /// or a prompt does not name the subject.
    pub fn new(job: &WarpJob, config: WarpConfig) -> Result<Arc<Self>> {
        let Base { about, networks, device, .. } = job.base;
        let modules = Modules::of(about.denoiser_sites());
        config.check(modules.own.len().min(modules.to_text.len()))?;
        let Some(first) = job.references.first() else {
            return Err(Error::config("references", "are empty; fit the subject with --method v-warper"));
        };
        let [_, channels, kinds, rows, columns] = first.latents.dims();
        let [frames, tall, wide] = job.latent_size;
        if [rows, columns] != [tall, wide] {
            let factor = about.geometry.factors[1];
            let reason = format!(
                "are of {}x{} pixels, and the video of {}x{}; generate at their size",
                columns * factor,
                rows * factor,
                wide * factor,
                tall * factor
            );
            return Err(Error::config("references", reason));
        }
        let latents = Tensor::cat(job.references.iter().map(|own| own.latents.clone()).collect(), 0);
        let count = job.references.len();
        let words = |prompt: &str| named(job, prompt);
        let own = format!("a {}", job.phrase);
        let options = PromptOptions { token_embeddings: job.embeddings, ..PromptOptions::default() };
        let texts = encode_prompt(job.base, &[&own], options)?.repeat(count);
        let sizes = [latents.dims(), [1, channels, frames, rows, columns]];
        let turned = config.descriptor == Descriptor::RotatedQueryKey;
        let [kinds, ..] = about.geometry.places([kinds, rows, columns]);
        let mut warp = Self {
            config,
            noise: Random::stream(0, "references", 0).normal_tensor(latents.dims(), device),
            latents,
            masks: job.references.iter().map(|own| own.mask.clone()).collect(),
            texts,
            words: words(&own)?,
            prompts: job.prompts.iter().map(|prompt| words(prompt)).collect::<Result<_>>()?,
            grid: about.geometry.places([frames, rows, columns]),
            kinds,
            modules,
            turning: turned.then(|| (networks.denoiser.clone(), sizes)),
            attached: job.attached.clone(),
            state: Mutex::new(State::default()),
            cache: None,
        };
        warp.cache = job.cache.map(|path| Mutex::new(Cache::open(path, warp.key(job.base), device)));
        Ok(Arc::new(warp))
    }

    /// A hash of what the reference branch computes: the settings, and what becomes of the references at both
    /// ends of the window.
    fn key(&self, base: &Base) -> String {
        let WarpConfig { match_block, blocks, descriptor, replaced, .. } = self.config;
        let settings = format!(
            "{} {match_block} {blocks:?} {descriptor:?} {replaced:?} {:?}",
            base.about.identity, self.words
        );
        let Window { start, end } = self.config.window;
        let at = |progress: f32| {
            let moment = Moment { level: base.networks.denoiser.noise().level(1.0 - progress), progress };
            values(self.through(base, moment, &self.attached))
        };
        cache::key(&settings, [values(self.latents.clone()), at(start), at(end)])
    }

    /// Writes what the references showed to the file it is kept in, if it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<()> {
        self.cache.as_ref().map_or(Ok(()), |cache| lock(cache).write())
    }

    /// Adds what the generation needs to `attachments`.
    pub fn attach(self: &Arc<Self>, attachments: &mut Attachments) {
        for site in self.sites() {
            let hook = Hook { warp: self.clone(), branch: Branch::Video };
            attachments.add_attention(site, self.config.window, Arc::new(hook));
        }
        self.attach_hidden(attachments, self.config.window);
    }

    /// Has the hidden states seen before the block that is matched, where they are compared.
    fn attach_hidden(self: &Arc<Self>, attachments: &mut Attachments, window: Window) {
        if let (Descriptor::Hidden, Some(before)) =
            (self.config.descriptor, self.config.match_block.checked_sub(1))
        {
            let seen = Watch { warp: self.clone() };
            attachments.add_state(self.modules.blocks.get(before).cloned(), window, Arc::new(seen));
        }
    }

    /// What the last step found, by prompt.
    pub fn matches(&self) -> Vec<Matches> {
        self.state().matches.clone()
    }

    /// The attentions that are looked into: the one before the match for the words, the match, and the warped
    /// ones.
    fn sites(&self) -> Vec<String> {
        let [first, end] = self.config.blocks;
        let mut sites = self.modules.own[first..end].to_vec();
        if first != self.config.match_block {
            sites.push(self.match_site().to_owned());
        }
        sites.push(self.word_site().to_owned());
        sites
    }

    /// The cross-attention whose attention to words is read: the last one before the match.
    fn word_site(&self) -> &str {
        &self.modules.to_text[self.config.match_block.saturating_sub(1)]
    }

    /// The self-attention that is matched.
    fn match_site(&self) -> &str {
        &self.modules.own[self.config.match_block]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn is_warped(&self, site: &str) -> bool {
        let [first, end] = self.config.blocks;
        self.modules.own[first..end].iter().any(|own| own == site)
    }

    /// Looks into the reference branch.
    fn observe(&self, site: &str, inputs: &AttentionInputs) {
        let mut state = self.state();
        if site == self.word_site() {
            let of = |index| {
                let all = attention_to(inputs, index, &self.words);
                let each = all.len() / self.kinds;
                let mean =
                    |place: usize| all.iter().skip(place).step_by(each).sum::<f32>() / self.kinds as f32;
                (0..each).map(mean).collect::<Vec<_>>()
            };
            state.references.shown = (0..self.masks.len()).flat_map(of).collect();
            return;
        }
        let kinds = |tensor: &Tensor<4>| self.kinds_of(tensor.clone().swap_dims(1, 2).flatten(2, 3));
        if site == self.match_site() {
            let features = self.features(inputs, state.hidden.take(), 0);
            state.references.descriptors =
                Some(self.kinds_of(features).into_iter().map(descriptors).collect());
        }
        if self.is_warped(site) {
            let rows = |own| Tensor::cat(kinds(own), 0);
            let key = (self.config.replaced == Replaced::KeysAndValues).then(|| rows(&inputs.key));
            state.references.values.insert(site.to_owned(), (key, rows(&inputs.value)));
        }
    }

    /// `tensor (references, kinds * places, channels)` apart by kinds, each `(references * places,
    /// channels)`.
    fn kinds_of(&self, tensor: Tensor<3>) -> Vec<Tensor<2>> {
        let [references, tokens, channels] = tensor.dims();
        let each = tokens / self.kinds;
        let kind =
            |kind: usize| tensor.clone().narrow(1, kind * each, each).reshape([references * each, channels]);
        (0..self.kinds).map(kind).collect()
    }

    /// What places are compared by, `(samples, places, channels)`: the queries of all heads and the keys of
    /// all heads, or the hidden states. `branch` is 0 for references and 1 for videos.
    fn features(&self, inputs: &AttentionInputs, hidden: Option<Tensor<3>>, branch: usize) -> Tensor<3> {
        let rows = |tensor: &Tensor<4>| tensor.clone().swap_dims(1, 2).flatten::<3>(2, 3);
        let both = [rows(&inputs.query), rows(&inputs.key)];
        match (self.config.descriptor, hidden) {
            (Descriptor::Hidden, Some(hidden)) => hidden,
            _ => match &self.turning {
                Some((denoiser, sizes)) => {
                    Tensor::cat(both.map(|own| denoiser.turned(sizes[branch], own)).to_vec(), 2)
                }
                None => Tensor::cat(both.to_vec(), 2),
            },
        }
    }

    /// Matches and warps the video branch, in which the prompts come first.
    fn warp(&self, site: &str, inputs: AttentionInputs) -> AttentionInputs {
        let mut state = self.state();
        if site == self.word_site() {
            self.look(&mut state, &inputs);
            return inputs;
        }
        if site == self.match_site() {
            self.find(&mut state, &inputs);
        }
        match state.references.values.get(site).filter(|_| self.is_warped(site)) {
            Some(reference) => self.replaced(&state, reference, inputs),
            None => inputs,
        }
    }

    /// Adds this step's attention to the subject's words.
    fn look(&self, state: &mut State, inputs: &AttentionInputs) {
        state.seen.resize(self.prompts.len(), Vec::new());
        for (index, words) in self.prompts.iter().enumerate() {
            let now = attention_to(inputs, index, words);
            if state.seen[index].len() == now.len() {
                state.seen[index].iter_mut().zip(now).for_each(|(sum, now)| *sum += now)
            } else {
                state.seen[index] = now
            }
        }
    }

    /// Finds the reference's place that every place of each video looks most like, and which of the matches
    /// hold.
    fn find(&self, state: &mut State, inputs: &AttentionInputs) {
        let hidden = state.hidden.take();
        let Some(references) = &state.references.descriptors else { return };
        let features = self.features(inputs, hidden, 1);
        let [frames, rows, columns] = self.grid;
        let each = rows * columns;
        let reference = foreground(&self.reference_shares(state), self.config.foreground);
        let mut found = Vec::new();
        for index in 0..self.prompts.len() {
            let seen = state.seen.get(index).map_or(&[][..], Vec::as_slice);
            let shown = if seen.is_empty() {
                vec![true; frames * each]
            } else {
                foreground(&scaled(seen), self.config.foreground)
            };
            let mut matches =
                Matches { grid: self.grid, shown, references: reference.clone(), ..Matches::default() };
            for frame in 0..frames {
                let own = features.clone().narrow(0, index, 1).narrow(1, frame * each, each).squeeze_dim(0);
                let best = Best::of(&descriptors(own), &references[frame.min(self.kinds - 1)]);
                let own = &matches.shown[frame * each..][..each];
                let filled = own.iter().filter(|shown| **shown).count() as f32 / each as f32;
                let allowed = self.config.cycle * rows as f32 * filled;
                for (place, &target) in best.forth.iter().enumerate() {
                    let back = distance(place, best.back(target), columns) < allowed;
                    matches.used.push(back && own[place] && reference[target]);
                    matches.back.push(back);
                }
                matches.places.extend(best.forth);
            }
            found.push(matches);
        }
        state.matches = found;
    }

    /// The subject's share of every reference's place: what is known, or the attention to its words.
    fn reference_shares(&self, state: &State) -> Vec<f32> {
        let [_, rows, columns] = self.grid;
        let each = rows * columns;
        let share = |(index, mask): (usize, &Option<Vec<f32>>)| match mask {
            Some(mask) => pooled(mask, self.latents.dims(), [rows, columns]),
            None => {
                let own = state.references.shown.get(index * each..(index + 1) * each);
                own.map_or_else(|| vec![1.0; each], scaled)
            }
        };
        self.masks.iter().enumerate().flat_map(share).collect()
    }

    /// `inputs` with the prompts' values, and keys if they are to be, replaced by those of the references
    /// where a match holds.
    fn replaced(
        &self,
        state: &State,
        (keys, own): &(Option<Tensor<2>>, Tensor<2>),
        inputs: AttentionInputs,
    ) -> AttentionInputs {
        let AttentionInputs { query, key, value } = inputs;
        let key = match keys {
            None => key,
            Some(keys) => self.warped(state, keys, key),
        };
        AttentionInputs { query, key, value: self.warped(state, own, value) }
    }

    /// `video (samples, heads, places, dim)` with `reference (kinds * references * places, channels)` where a
    /// match holds.
    fn warped(&self, state: &State, reference: &Tensor<2>, video: Tensor<4>) -> Tensor<4> {
        let [batch, heads, tokens, dim] = video.dims();
        let device = video.device();
        let each = self.grid[1] * self.grid[2];
        let mut warped = Vec::with_capacity(batch);
        for index in 0..batch {
            let own = video.clone().narrow(0, index, 1);
            let Some(matches) = state.matches.get(index).filter(|found| found.places.len() == tokens) else {
                warped.push(own);
                continue;
            };
            let row = |(at, place): (usize, &usize)| {
                let kind = (at / each).min(self.kinds - 1);
                (kind * self.masks.len() * each + place) as i32
            };
            let rows: Vec<i32> = matches.places.iter().enumerate().map(row).collect();
            let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [tokens]), &device);
            let found = reference.clone().select(0, rows).reshape([1, tokens, heads, dim]).swap_dims(1, 2);
            let share = |used: &bool| if *used { self.config.mix } else { 0.0 };
            let shares: Vec<f32> = matches.used.iter().map(share).collect();
            let shares = Tensor::<4>::from_data(TensorData::new(shares, [1, 1, tokens, 1]), &device);
            warped.push(own.clone() + (found - own) * shares);
        }
        Tensor::cat(warped, 0)
    }
}

impl Companion for Warp {
    /// Sends the references through the denoiser, as far as it is looked into.
    fn step(self: Arc<Self>, base: &Base, moment: Moment) -> Result<(), understudy_pipeline::Error> {
        if !self.config.window.contains(moment.progress) {
            return Ok(());
        }
        let cached = self.cache.as_ref().and_then(|cache| lock(cache).get(moment.level.timestep));
        if let Some(seen) = cached {
            self.state().references = seen;
            return Ok(());
        }
        let mut attached = self.attached.clone();
        let attachments = attached.to_mut(base.about.denoiser);
        for site in self.sites() {
            let hook = Hook { warp: self.clone(), branch: Branch::References };
            attachments.add_attention(site, Window::ALWAYS, Arc::new(hook));
        }
        self.attach_hidden(attachments, Window::ALWAYS);
        self.through(base, moment, &attached);
        if let Some(cache) = &self.cache {
            lock(cache).insert(moment.level.timestep, self.state().references.clone());
        }
        base.check_read()
    }
}

impl Warp {
    /// The hidden states of the references at a moment, as far as the denoiser is looked into.
    fn through(&self, base: &Base, moment: Moment, attached: &Attached) -> Tensor<3> {
        let denoiser = base.networks.denoiser.as_ref();
        let levels: Vec<Level> = vec![moment.level; self.masks.len()];
        let timesteps = vec![moment.level.timestep; self.masks.len()];
        let step = Step {
            latents: mixed(&self.latents, &self.noise, &levels),
            timesteps: &timesteps,
            progress: moment.progress,
            attached: None,
        };
        // Nobody asks how it ends.
        let stack = denoiser.stack(&self.texts, step, attached, Box::new(|prediction| prediction.sum()));
        let depth =
            if self.modules.own.len() == stack.depth() { self.config.blocks[1] } else { stack.depth() };
        let (state, shared) = stack.begin();
        (0..depth).fold(state, |state, block| stack.block(block, state, &shared)).hidden
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which of the two branches a hook is attached to.
#[derive(Clone, Copy, Debug)]
enum Branch {
    Video,
    References,
}

#[derive(Debug)]
struct Hook {
    warp: Arc<Warp>,
    branch: Branch,
}

impl AttentionHook for Hook {
    fn attend(&self, site: &str, _: f32, inputs: AttentionInputs) -> AttentionInputs {
        match self.branch {
            Branch::Video => self.warp.warp(site, inputs),
            Branch::References => {
                self.warp.observe(site, &inputs);
                inputs
            }
        }
    }
}

/// Keeps the hidden states before the block that is matched until it is.
#[derive(Debug)]
struct Watch {
    warp: Arc<Warp>,
}

impl StateHook for Watch {
    fn pass(&self, _: Call, hidden: Tensor<3>) -> Tensor<3> {
        self.warp.state().hidden = Some(hidden.clone());
        hidden
    }

    fn detached(self: Arc<Self>) -> Arc<dyn StateHook> {
        self
    }
}

/// Where `prompt` names the subject: the positions of its token and of the words after it that the phrase
/// has.
fn named(job: &WarpJob, prompt: &str) -> Result<Vec<usize>> {
    let tokens = job.embeddings.map_or(&[][..], |own| own.tokens.as_slice());
    let tokenizer = job.base.networks.text.tokenizer().with_added(tokens)?;
    let limit = job.base.about.text_limit;
    let ids = |text: &str| -> Result<Vec<u32>> {
        let tokens = tokenizer.encode(&[text], limit)?;
        // Without the end of the text.
        Ok(tokens.ids[0][..tokens.lengths[0].saturating_sub(1)].to_vec())
    };
    let (own, phrase) = (ids(prompt)?, ids(job.phrase)?);
    let whole = own.windows(phrase.len().max(1)).position(|part| part == phrase);
    let token = |id: &u32| tokens.iter().any(|token| tokenizer.id(token) == Some(*id));
    match (whole, own.iter().position(token)) {
        (Some(at), _) => Ok((at..at + phrase.len()).collect()),
        (None, Some(at)) => Ok(vec![at]),
        (None, None) => Err(Error::config(
            "prompt",
            format!("{prompt:?} does not name the subject; write {:?} where it is to be", job.phrase),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const GRID: [usize; 3] = [2, 2, 3];
    const HEADS: usize = 2;
    const DIM: usize = 3;

    /// A warp of one reference with a mask, at the second of three blocks, for one prompt.
    fn warp(mask: [f32; 6]) -> Warp {
        let device = Device::flex();
        Warp {
            config: WarpConfig {
                match_block: 1,
                blocks: [1, 3],
                window: Window::ALWAYS,
                cycle: 1.0,
                foreground: 0.5,
                mix: 1.0,
                ..WarpConfig::for_depth(3)
            },
            latents: Tensor::zeros([1, 1, 1, 2, 3], &device),
            noise: Tensor::zeros([1, 1, 1, 2, 3], &device),
            masks: vec![Some(mask.to_vec())],
            texts: Texts { words: Tensor::zeros([1, 4, 1], &device), pooled: None },
            words: vec![1],
            prompts: vec![vec![2]],
            grid: GRID,
            kinds: 1,
            modules: Modules {
                own: (0..3).map(|block| format!("blocks.{block}.attn1")).collect(),
                to_text: (0..3).map(|block| format!("blocks.{block}.attn2")).collect(),
                blocks: (0..3).map(|block| format!("blocks.{block}")).collect(),
            },
            turning: None,
            attached: Attached::none(),
            state: Mutex::new(State::default()),
            cache: None,
        }
    }

    /// Queries, keys and values of so many samples, all of `tokens` places.
    fn random(samples: usize, tokens: usize, seed: u64) -> AttentionInputs {
        let device = Device::flex();
        let mut random = Random::new(seed, 0);
        let mut next = || random.normal_tensor([samples, HEADS, tokens, DIM], &device);
        AttentionInputs { query: next(), key: next(), value: next() }
    }

    /// A reference of six places that look like nothing but themselves.
    fn distinct() -> AttentionInputs {
        let one = |at: usize| {
            let (head, place, channel) = (at / (6 * DIM), at / DIM % 6, at % DIM);
            if head * DIM + channel == place { 1.0_f32 } else { 0.0 }
        };
        let marks: Vec<f32> = (0..HEADS * 6 * DIM).map(one).collect();
        let marks = Tensor::from_data(TensorData::new(marks, [1, HEADS, 6, DIM]), &Device::flex());
        AttentionInputs { query: marks.clone(), key: marks, value: random(1, 6, 3).value }
    }

    /// Sample 0 of the video: in each frame the places of the reference in another order; sample 1 as it
    /// comes.
    fn video(reference: &AttentionInputs, orders: [[usize; 6]; 2]) -> AttentionInputs {
        let device = Device::flex();
        let other = random(1, 12, 9);
        let order: Vec<i32> = orders.concat().into_iter().map(|place| place as i32).collect();
        let order = Tensor::<1, Int>::from_data(TensorData::new(order, [12]), &device);
        let mixed = |own: &Tensor<4>, rest: &Tensor<4>| {
            Tensor::cat(vec![own.clone().select(2, order.clone()), rest.clone()], 0)
        };
        AttentionInputs {
            query: mixed(&reference.query, &other.query),
            key: mixed(&reference.key, &other.key),
            value: random(2, 12, 5).value,
        }
    }

    fn places(value: &Tensor<4>, sample: usize) -> Vec<Vec<f32>> {
        let rows = values(value.clone().narrow(0, sample, 1).swap_dims(1, 2).flatten::<2>(0, 2));
        rows.chunks(HEADS * DIM).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn values_follow_the_matches_where_the_subject_is() {
        let reference = distinct();
        let orders = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]];
        let inputs = video(&reference, orders);
        let warp = warp([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
        warp.observe("blocks.1.attn1", &reference);
        warp.observe("blocks.2.attn1", &reference);
        let matched = warp.warp("blocks.1.attn1", inputs.clone());
        let found = &warp.matches()[0];
        assert_eq!(found.places, orders.concat());
        // The third place of the reference is no part of the subject.
        let used: Vec<bool> = orders.concat().into_iter().map(|place| place != 2).collect();
        assert_eq!(found.used, used);
        assert_eq!((found.shown.as_slice(), found.back.as_slice()), (&[true; 12][..], &[true; 12][..]));
        assert_eq!(found.references, [true, true, false, true, true, true]);
        let (own, new, old) =
            (places(&reference.value, 0), places(&matched.value, 0), places(&inputs.value, 0));
        for (at, place) in orders.concat().into_iter().enumerate() {
            let expected = if place == 2 { &old[at] } else { &own[place] };
            assert!(new[at].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{at}");
        }
        // The other sample, queries and keys stay as they are.
        assert_eq!(places(&matched.value, 1), places(&inputs.value, 1));
        assert_eq!(values(matched.query), values(inputs.query.clone()));
        // A block after the match uses what was found there; one that is not warped is left alone.
        let later = warp.warp("blocks.2.attn1", inputs.clone());
        assert_eq!(places(&later.value, 0), new);
        assert_eq!(values(warp.warp("blocks.0.attn1", inputs.clone()).value), values(inputs.value));
    }

    #[test]
    fn places_without_attention_to_the_subject_are_left_alone() {
        let reference = distinct();
        let inputs = video(&reference, [[0, 1, 2, 3, 4, 5]; 2]);
        let warp = warp([1.0; 6]);
        warp.observe("blocks.1.attn1", &reference);
        // Words of the first prompt: all places of the second row look at the third, which names the subject.
        let device = Device::flex();
        let look = |place: usize| if place % 6 < 3 { -4.0_f32 } else { 4.0 };
        let query: Vec<f32> = (0..HEADS * 12).flat_map(|at| [look(at % 12), 0.0, 0.0]).collect();
        let key: Vec<f32> =
            (0..HEADS * 4).flat_map(|at| [if at % 4 == 2 { 2.0 } else { 0.0 }, 0.0, 0.0]).collect();
        let words = AttentionInputs {
            query: Tensor::from_data(TensorData::new(query, [1, HEADS, 12, DIM]), &device),
            key: Tensor::from_data(TensorData::new(key, [1, HEADS, 4, DIM]), &device),
            value: Tensor::zeros([1, HEADS, 4, DIM], &device),
        };
        warp.warp("blocks.0.attn2", words);
        warp.warp("blocks.1.attn1", inputs);
        let expected: Vec<bool> = (0..12).map(|place| place % 6 >= 3).collect();
        assert_eq!(warp.matches()[0].used, expected);
    }
}

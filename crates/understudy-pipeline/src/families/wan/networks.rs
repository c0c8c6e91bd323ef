//! Wan's networks as everybody else asks for them.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::{Attached, Attachments};
use understudy_engine::replay::{BlockStack, State};
use understudy_engine::weights::Lost;
use understudy_models::reuse::BlockReuse;
use understudy_models::text_context::TextContext;
use understudy_models::tiling::Tiles;
use understudy_models::umt5::Umt5Encoder;
use understudy_models::wan_transformer::{Rotary, WanConditions, WanTransformer};
use understudy_models::wan_vae::WanVae;

use super::files::TRANSFORMER;
use crate::base::{Base, Networks};
use crate::family::Description;
use crate::network::{Autoencoder, Conditioned, Denoiser, End, Step, TextEncoder, Texts};
use crate::noise::Noise;
use crate::tokenize::{Tokenizer, Tokens};

/// Sites of the text context, which is computed once unless something is attached there.
const TEXT_SITES: &str = "condition_embedder.text_embedder.";

/// The networks of a base. Copies share their weights.
#[derive(Clone, Debug)]
pub struct WanNetworks {
    /// Texts to states.
    pub text_encoder: Umt5Encoder,
    /// The denoiser.
    pub transformer: WanTransformer,
    /// Videos to latents and back.
    pub vae: WanVae,
    /// Texts to ids.
    pub tokenizer: Tokenizer,
    /// Where they compute.
    pub device: Device,
    /// What could not be read any more of the text encoder and the denoiser.
    pub(super) lost: [Lost; 2],
}

impl WanNetworks {
    /// A base of them, which is all in memory.
    pub fn base(&self, about: Arc<Description>) -> Base {
        Base { about, networks: self.shared(), device: self.device.clone(), blocks_on_host: 0 }
    }

    /// As everybody else asks for them.
    pub fn shared(&self) -> Networks {
        let Self { text_encoder, transformer, vae, tokenizer, device, lost: [of_text, of_denoiser] } =
            self.clone();
        Networks {
            text: Arc::new(WanText { network: text_encoder, tokenizer, device, lost: of_text }),
            denoiser: Arc::new(WanDenoiser { network: transformer, lost: of_denoiser }),
            vae: Arc::new(WanAutoencoder { network: vae }),
        }
    }
}

/// A transformer alone as everybody else asks for it.
pub fn denoiser(network: WanTransformer) -> Arc<dyn Denoiser> {
    Arc::new(WanDenoiser { network, lost: Lost::default() })
}

/// UMT5 with its tokenizer. States are zero beyond a text's last token: the denoiser attends to all
/// positions, zeros too.
#[derive(Clone, Debug)]
struct WanText {
    network: Umt5Encoder,
    tokenizer: Tokenizer,
    device: Device,
    lost: Lost,
}

impl TextEncoder for WanText {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn table(&self) -> [usize; 2] {
        let config = self.network.config();
        [config.vocab_size, config.d_model]
    }

    /// Padding changes nothing before it, so only as many positions are computed as the longest text has.
    fn embed(&self, tokens: &Tokens) -> Tensor<3> {
        let [rows, _] = self.table();
        self.network.embed(tokens.tensor(tokens.longest(), rows, &self.device))
    }

    fn encode(&self, embedded: Tensor<3>, tokens: &Tokens, _: usize, attachments: &Attachments) -> Texts {
        let states = self.network.forward(embedded, &tokens.lengths, attachments);
        Texts { words: tokens.zeroed_beyond(states), pooled: None }
    }

    fn lost(&self) -> Option<&str> {
        self.lost.reason()
    }
}

/// The diffusion transformer.
#[derive(Clone, Debug)]
struct WanDenoiser {
    network: WanTransformer,
    lost: Lost,
}

impl Denoiser for WanDenoiser {
    fn name(&self) -> &'static str {
        TRANSFORMER.folder
    }

    fn noise(&self) -> &Noise {
        &Noise::Flow
    }

    fn depth(&self) -> usize {
        self.network.depth()
    }

    fn with_texts<'a>(
        &'a self,
        texts: Texts,
        attached: &'a Attached,
        reuse: Option<f32>,
    ) -> Box<dyn Conditioned + 'a> {
        let (network, attachments) = (&self.network, attached.to(self.name()));
        let of_text = |site: &str| site.starts_with(TEXT_SITES) && !attachments.is_steady(site);
        let varies = attachments.sites().any(of_text);
        let known = || network.projected(network.context(texts.words.clone(), attachments), attachments);
        let context = (!varies).then(known);
        let reuse = reuse.map(BlockReuse::new);
        Box::new(UnderTexts { network, attachments, text: texts.words, context, reuse })
    }

    fn stack<'a>(
        &'a self,
        texts: &Texts,
        step: Step<'_>,
        attached: &'a Attached,
        end: End<'a>,
    ) -> Box<dyn BlockStack + 'a> {
        Box::new(WanStack::new(&self.network, texts, step, attached.to(self.name()), end))
    }

    fn turned(&self, latents: [usize; 5], states: Tensor<3>) -> Tensor<3> {
        let device = states.device().without_autodiff();
        self.network.rotary(latents, &device).apply(states)
    }

    fn lost(&self) -> Option<&str> {
        self.lost.reason()
    }
}

/// The transformer for given texts.
struct UnderTexts<'a> {
    network: &'a WanTransformer,
    attachments: &'a Attachments,
    /// States `(texts, words, channels)`.
    text: Tensor<3>,
    /// What blocks read of them, if it is the same at every step.
    context: Option<TextContext>,
    reuse: Option<BlockReuse>,
}

impl Conditioned for UnderTexts<'_> {
    fn predict(&mut self, step: Step<'_>) -> Tensor<5> {
        let attachments = step.with(self.attachments);
        let context = match &self.context {
            Some(context) => context.clone(),
            None => self.network.context(self.text.clone(), &attachments),
        };
        let samples = step.timesteps.len();
        let context = if samples < self.text.dims()[0] { context.narrow(0, samples) } else { context };
        let reuse = self.reuse.as_mut();
        self.network.forward_reusing(step.latents, step.timesteps, context, &attachments, reuse)
    }

    fn skipped(&self) -> usize {
        self.reuse.as_ref().map_or(0, BlockReuse::skipped)
    }
}

/// What every block reads: the embedding of time, its projection, and the words.
const SHARED: usize = 3;

/// The transformer as the stack of its blocks.
struct WanStack<'a> {
    network: &'a WanTransformer,
    attachments: Attachments,
    /// The values of `attachments`.
    values: Attachments,
    text: Tensor<3>,
    /// Of the last word of the text; see [`TextContext`].
    repeats: usize,
    latents: Tensor<5>,
    timesteps: Vec<f32>,
    rotary: Rotary,
    end: End<'a>,
}

impl<'a> WanStack<'a> {
    fn new(
        network: &'a WanTransformer,
        texts: &Texts,
        step: Step<'_>,
        attachments: &Attachments,
        end: End<'a>,
    ) -> Self {
        let (text, repeats) = TextContext::distinct(texts.words.clone());
        let attachments = attachments.at(step.progress);
        Self {
            network,
            values: attachments.without_autodiff(),
            attachments,
            text,
            repeats,
            rotary: network.rotary(step.latents.dims(), &step.latents.device().without_autodiff()),
            latents: step.latents,
            timesteps: step.timesteps.to_vec(),
            end,
        }
    }

    fn block_with(
        &self,
        index: usize,
        hidden: Tensor<3>,
        shared: &[Tensor<3>],
        attachments: &Attachments,
    ) -> Tensor<3> {
        let (own, attached) = shared.split_at(SHARED);
        let context = TextContext::new(own[2].clone(), self.repeats);
        let conditions = WanConditions { time: own[0].clone(), modulation: own[1].clone(), context };
        let with_shared = (!attached.is_empty()).then(|| attachments.with_shared(attached));
        let attachments = with_shared.as_ref().unwrap_or(attachments);
        self.network.block(index, hidden, &conditions, &self.rotary, attachments)
    }
}

impl BlockStack for WanStack<'_> {
    fn depth(&self) -> usize {
        self.network.depth()
    }

    fn begin(&self) -> (State, Vec<Tensor<3>>) {
        let hidden = self.network.patchify(self.latents.clone(), &self.attachments);
        let context = self.network.context_of(self.text.clone(), self.repeats, &self.attachments);
        let WanConditions { time, modulation, context } =
            self.network.conditions(&self.timesteps, context, &self.attachments);
        let own = [time, modulation, context.words];
        (hidden.into(), own.into_iter().chain(self.attachments.shared()).collect())
    }

    fn block(&self, index: usize, state: State, shared: &[Tensor<3>]) -> State {
        self.block_with(index, state.hidden, shared, &self.attachments).into()
    }

    fn block_value(&self, index: usize, state: State, shared: &[Tensor<3>]) -> State {
        self.block_with(index, state.hidden, shared, &self.values).into()
    }

    fn loss(&self, state: State, shared: &[Tensor<3>]) -> Tensor<1> {
        (self.end)(self.network.finish(state.hidden, &shared[0], self.latents.dims(), &self.attachments))
    }
}

/// The video autoencoder.
#[derive(Clone, Debug)]
struct WanAutoencoder {
    network: WanVae,
}

impl Autoencoder for WanAutoencoder {
    fn encode(&self, videos: Tensor<5>) -> Tensor<5> {
        self.network.normalize(self.network.encode_streamed(videos).mean)
    }

    fn decode(&self, latents: Tensor<5>, tile: Option<usize>) -> Tensor<5> {
        let [_, _, _, rows, columns] = latents.dims();
        let pixels = [rows, columns].map(|side| side * self.network.config().spatial_factor());
        let latents = self.network.denormalize(latents);
        in_unit(match tile.map(Tiles::square).filter(|tiles| tiles.divide(pixels)) {
            Some(tiles) => self.network.decode_tiled(latents, tiles),
            None => self.network.decode_streamed(latents),
        })
    }

    /// A frame depends on all before it, so these are decoded, too.
    fn decode_frame(&self, latents: Tensor<5>, frame: usize) -> Tensor<4> {
        let held = frame.div_ceil(self.network.config().temporal_factor());
        let before = self.network.denormalize(latents.narrow(2, 0, held + 1));
        in_unit(self.network.decode(before).narrow(2, frame, 1)).squeeze_dim(2)
    }

    fn lost(&self) -> Option<&str> {
        self.network.lost()
    }
}

/// Pictures in [-1, 1] as ones in [0, 1].
fn in_unit(videos: Tensor<5>) -> Tensor<5> {
    (videos / 2.0 + 0.5).clamp(0.0, 1.0)
}

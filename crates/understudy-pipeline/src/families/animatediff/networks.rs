//! The networks as everybody else asks for them.

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::{Attached, Attachments};
use understudy_engine::replay::{self, BlockStack};
use understudy_engine::weights::Lost;
use understudy_models::clip::ClipText;
use understudy_models::sd_unet::{Conditions, SdUnet, State};
use understudy_models::sd_vae::SdVae;
use understudy_models::tiling::Tiles;

use super::names::UNET;
use crate::network::{Autoencoder, Conditioned, Denoiser, End, Step, TextEncoder, Texts};
use crate::noise::Noise;
use crate::tokenize::{Tokenizer, Tokens};

/// CLIP's text encoder with its tokenizer. All positions count, those of padding too.
#[derive(Clone, Debug)]
pub(super) struct ClipTexts {
    pub(super) network: ClipText,
    pub(super) tokenizer: Tokenizer,
    pub(super) device: Device,
    pub(super) lost: Lost,
}

impl TextEncoder for ClipTexts {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn table(&self) -> [usize; 2] {
        let config = self.network.config();
        [config.vocab_size, config.hidden_size]
    }

    fn embed(&self, tokens: &Tokens) -> Tensor<3> {
        let [rows, _] = self.table();
        let limit = tokens.ids.first().map_or(0, Vec::len);
        self.network.embed(tokens.tensor(limit, rows, &self.device))
    }

    fn encode(&self, embedded: Tensor<3>, _: &Tokens, skip: usize, attachments: &Attachments) -> Texts {
        Texts { words: self.network.encode(embedded, skip, attachments), pooled: None }
    }

    fn lost(&self) -> Option<&str> {
        self.lost.reason()
    }
}

/// The UNet with motion modules.
#[derive(Clone, Debug)]
pub(super) struct Unet {
    pub(super) network: SdUnet,
    pub(super) noise: Noise,
    pub(super) lost: [Lost; 2],
}

impl Denoiser for Unet {
    fn name(&self) -> &'static str {
        UNET
    }

    fn noise(&self) -> &Noise {
        &self.noise
    }

    fn depth(&self) -> usize {
        self.network.depth()
    }

    fn with_texts<'a>(
        &'a self,
        texts: Texts,
        attached: &'a Attached,
        _: Option<f32>,
    ) -> Box<dyn Conditioned + 'a> {
        Box::new(UnderTexts { network: &self.network, attachments: attached.to(UNET), text: texts.words })
    }

    fn stack<'a>(
        &'a self,
        texts: &Texts,
        step: Step<'_>,
        attached: &'a Attached,
        end: End<'a>,
    ) -> Box<dyn BlockStack + 'a> {
        let attachments = attached.to(UNET).at(step.progress);
        Box::new(UnetStack {
            network: &self.network,
            values: attachments.without_autodiff(),
            attachments,
            text: texts.words.clone(),
            latents: step.latents,
            timesteps: step.timesteps.to_vec(),
            end,
        })
    }

    fn lost(&self) -> Option<&str> {
        self.lost.iter().find_map(Lost::reason)
    }
}

/// The UNet for given texts.
struct UnderTexts<'a> {
    network: &'a SdUnet,
    attachments: &'a Attachments,
    /// States `(texts, words, channels)`.
    text: Tensor<3>,
}

impl Conditioned for UnderTexts<'_> {
    fn predict(&mut self, step: Step<'_>) -> Tensor<5> {
        let attachments = step.with(self.attachments);
        let text = self.text.clone().narrow(0, 0, step.timesteps.len());
        let [_, _, frames, ..] = step.latents.dims();
        let pictures = folded(step.latents);
        unfolded(self.network.forward(pictures, step.timesteps, text, &attachments), frames)
    }
}

/// The frames of videos `(videos, channels, frames, height, width)` as pictures, one after the other.
pub(super) fn folded(videos: Tensor<5>) -> Tensor<4> {
    let [count, channels, frames, height, width] = videos.dims();
    videos.permute([0, 2, 1, 3, 4]).reshape([count * frames, channels, height, width])
}

/// Pictures `(videos * frames, channels, height, width)` as videos of so many frames.
fn unfolded(pictures: Tensor<4>, frames: usize) -> Tensor<5> {
    let [count, channels, height, width] = pictures.dims();
    pictures.reshape([count / frames, frames, channels, height, width]).permute([0, 2, 1, 3, 4])
}

/// The time embedding and the words: what every block reads.
const SHARED: usize = 2;

/// The UNet as the stack of its blocks.
struct UnetStack<'a> {
    network: &'a SdUnet,
    attachments: Attachments,
    /// The values of `attachments`.
    values: Attachments,
    text: Tensor<3>,
    latents: Tensor<5>,
    timesteps: Vec<f32>,
    end: End<'a>,
}

impl UnetStack<'_> {
    fn frames(&self) -> usize {
        self.latents.dims()[2]
    }

    /// Pictures of all samples.
    fn pictures(&self) -> usize {
        self.timesteps.len() * self.frames()
    }

    fn block_with(
        &self,
        index: usize,
        state: replay::State,
        shared: &[Tensor<3>],
        attachments: &Attachments,
    ) -> replay::State {
        let (own, attached) = shared.split_at(SHARED);
        let conditions =
            Conditions { time: own[0].clone().squeeze_dim(0), text: own[1].clone(), frames: self.frames() };
        let with_shared = (!attached.is_empty()).then(|| attachments.with_shared(attached));
        let attachments = with_shared.as_ref().unwrap_or(attachments);
        let state = opened(state, self.pictures());
        closed(self.network.block(index, state, &conditions, attachments))
    }
}

/// A state `(pictures, rows, columns, channels)` as one of places.
fn closed(state: State) -> replay::State {
    let flat = |own: Tensor<4>| {
        let [pictures, rows, columns, channels] = own.dims();
        own.reshape([pictures * rows, columns, channels])
    };
    replay::State { hidden: flat(state.hidden), skips: state.skips.into_iter().map(flat).collect() }
}

/// A state of places as one of so many pictures.
fn opened(state: replay::State, pictures: usize) -> State {
    let picture = |own: Tensor<3>| {
        let [rows, columns, channels] = own.dims();
        own.reshape([pictures, rows / pictures, columns, channels])
    };
    State { hidden: picture(state.hidden), skips: state.skips.into_iter().map(picture).collect() }
}

impl BlockStack for UnetStack<'_> {
    fn depth(&self) -> usize {
        self.network.depth()
    }

    fn begin(&self) -> (replay::State, Vec<Tensor<3>>) {
        let state = self.network.begin(folded(self.latents.clone()), &self.attachments);
        let Conditions { time, text, .. } =
            self.network.conditions(&self.timesteps, self.text.clone(), self.frames(), &self.attachments);
        let own = [time.unsqueeze_dim(0), text];
        (closed(state), own.into_iter().chain(self.attachments.shared()).collect())
    }

    fn block(&self, index: usize, state: replay::State, shared: &[Tensor<3>]) -> replay::State {
        self.block_with(index, state, shared, &self.attachments)
    }

    fn block_value(&self, index: usize, state: replay::State, shared: &[Tensor<3>]) -> replay::State {
        self.block_with(index, state, shared, &self.values)
    }

    fn loss(&self, state: replay::State, _: &[Tensor<3>]) -> Tensor<1> {
        let state = opened(state, self.pictures());
        (self.end)(unfolded(self.network.end(state, &self.attachments), self.frames()))
    }
}

/// The autoencoder of pictures, a frame at a time.
#[derive(Clone, Debug)]
pub(super) struct Pictures {
    pub(super) network: SdVae,
}

impl Autoencoder for Pictures {
    fn encode(&self, videos: Tensor<5>) -> Tensor<5> {
        let [_, _, frames, ..] = videos.dims();
        unfolded(self.network.normalize(self.network.encode_streamed(folded(videos)).mean), frames)
    }

    fn decode(&self, latents: Tensor<5>, tile: Option<usize>) -> Tensor<5> {
        let [_, _, frames, rows, columns] = latents.dims();
        let pixels = [rows, columns].map(|side| side * self.network.config().spatial_factor());
        let tiles = tile.map(Tiles::square).filter(|tiles| tiles.divide(pixels));
        let pictures = self.network.denormalize(folded(latents));
        let decoded = match tiles {
            Some(tiles) => self.network.decode_tiled(pictures, tiles),
            None => self.network.decode_streamed(pictures),
        };
        unfolded(in_unit(decoded), frames)
    }

    fn decode_frame(&self, latents: Tensor<5>, frame: usize) -> Tensor<4> {
        let picture = self.network.denormalize(folded(latents.narrow(2, frame, 1)));
        in_unit(self.network.decode(picture))
    }

    fn lost(&self) -> Option<&str> {
        self.network.lost()
    }
}

/// Pictures in [-1, 1] as ones in [0, 1].
fn in_unit(pictures: Tensor<4>) -> Tensor<4> {
    (pictures / 2.0 + 0.5).clamp(0.0, 1.0)
}

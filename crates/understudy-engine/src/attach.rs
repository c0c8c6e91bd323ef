//! Attachments: what every personalization method does to a frozen network.
//!
//! A network's linear maps, attentions and block outputs are *sites*, named by their published path. An
//! [`Attachments`] holds, for any of them, low-rank residuals and hooks of attentions and hidden states, each
//! active in a [`Window`] of the denoising steps. Networks ask it at every site and know no method.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::ops::{self, Activation, Conv2dOptions, Conv2dWeight};

/// A window of denoising progress: 0 is the first (noisiest) step, 1 the end.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// Active from this progress on.
    pub start: f32,
    /// Active before this progress.
    pub end: f32,
}

impl Window {
    /// Every step.
    pub const ALWAYS: Self = Self { start: 0.0, end: 1.0 };

    /// Whether the window holds `progress`; the end is inclusive at 1 so that [`Window::ALWAYS`] is.
    pub fn contains(&self, progress: f32) -> bool {
        progress >= self.start && (progress < self.end || self.end >= 1.0)
    }
}

/// Adds `scale * (x A^T) B^T` to a linear map, and never forms the dense sum. At a convolution A is one with
/// the kernel, stride and padding of the site, and B a linear map of each of its pixels.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// Down projection `(rank, inputs)`; a convolution's inputs are channels times rows times columns of its
    /// kernel, in this order.
    pub down: Tensor<2>,
    /// Up projection `(outputs, rank)`.
    pub up: Tensor<2>,
    /// Multiplies the residual; strength times `alpha / rank`.
    pub scale: f32,
    /// When it is active.
    pub window: Window,
}

impl LowRank {
    /// The residual for `x (..., inputs)`, of shape `(..., outputs)`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::residual(x, self.down.clone(), self.up.clone(), self.scale)
    }

    /// The residual of a convolution of this `kernel` for `x (batch, rows, columns, inputs)`, of shape
    /// `(batch, rows', columns', outputs)`.
    fn convolved(&self, x: Tensor<4>, [rows, columns]: [usize; 2], options: Conv2dOptions) -> Tensor<4> {
        let ([rank, _], inputs) = (self.down.dims(), x.dims()[3]);
        let down = self.down.clone().reshape([rank, inputs, rows, columns]);
        let none = Tensor::zeros([1, rank], &x.device().without_autodiff());
        let hidden = ops::conv2d(x, down, none, options);
        ops::linear(hidden * self.scale, self.up.clone(), None)
    }
}

/// What an attention is about to use; all `(batch, heads, tokens, dim)`.
#[derive(Clone, Debug)]
pub struct AttentionInputs {
    /// Queries before the rotary embedding.
    pub query: Tensor<4>,
    /// Keys before the rotary embedding.
    pub key: Tensor<4>,
    /// Values.
    pub value: Tensor<4>,
}

/// Sees, and may replace, what one attention uses.
pub trait AttentionHook: Debug + Send + Sync {
    /// Returns the inputs to go on with; returning them unchanged observes.
    fn attend(&self, site: &str, progress: f32, inputs: AttentionInputs) -> AttentionInputs;
}

/// One call of a [`StateHook`].
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Behind which module.
    pub site: &'a str,
    /// How far denoising is.
    pub progress: f32,
    /// The tensors of [`StateHook::shared`], in their order.
    pub shared: &'a [Tensor<3>],
}

/// Sees, and may change, the hidden state behind a module.
pub trait StateHook: Debug + Send + Sync {
    /// The hidden state `(batch, tokens, channels)` to go on with; returning it as it is observes.
    fn pass(&self, call: Call, hidden: Tensor<3>) -> Tensor<3>;

    /// Tensors that are the same wherever it is called, and may be trained: asked for once, when it is
    /// attached. Under [replay](crate::replay) gradients reach them through [`Call::shared`].
    fn shared(&self) -> Vec<Tensor<3>> {
        Vec::new()
    }

    /// The same with the values of what it trains alone, for sweeps outside any graph.
    fn detached(self: Arc<Self>) -> Arc<dyn StateHook>;
}

#[derive(Clone, Debug)]
struct Windowed<T> {
    window: Window,
    item: T,
}

/// A hook of hidden states and the tensors it shares between its calls.
#[derive(Clone, Debug)]
struct Shared {
    hook: Arc<dyn StateHook>,
    tensors: Vec<Tensor<3>>,
}

/// All attachments of one run, by site, and the progress of the current step.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    low_rank: BTreeMap<String, Vec<LowRank>>,
    attention: BTreeMap<String, Vec<Windowed<Arc<dyn AttentionHook>>>>,
    /// Which of the hooks of states are called behind a module.
    states: BTreeMap<String, Vec<usize>>,
    hooks: Vec<Windowed<Shared>>,
    progress: f32,
}

impl Attachments {
    /// Nothing attached: networks compute exactly what they would without.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a low-rank residual to the linear map or convolution at `site`.
    pub fn add_low_rank(&mut self, site: impl Into<String>, residual: LowRank) {
        self.low_rank.entry(site.into()).or_default().push(residual);
    }

    /// Adds a hook to the attention at `site`.
    pub fn add_attention(&mut self, site: impl Into<String>, window: Window, hook: Arc<dyn AttentionHook>) {
        self.attention.entry(site.into()).or_default().push(Windowed { window, item: hook });
    }

    /// Adds a hook of the hidden states behind `sites`.
    pub fn add_state<S: Into<String>>(
        &mut self,
        sites: impl IntoIterator<Item = S>,
        window: Window,
        hook: Arc<dyn StateHook>,
    ) {
        for site in sites {
            self.states.entry(site.into()).or_default().push(self.hooks.len());
        }
        let tensors = hook.shared();
        self.hooks.push(Windowed { window, item: Shared { hook, tensors } });
    }

    /// What all hooks of states share between their calls, one after the other.
    pub fn shared(&self) -> Vec<Tensor<3>> {
        self.hooks.iter().flat_map(|own| own.item.tensors.clone()).collect()
    }

    /// The same with `shared` in place of what [`Attachments::shared`] gives, as many and in that order.
    pub fn with_shared(&self, shared: &[Tensor<3>]) -> Self {
        let mut replaced = self.clone();
        let mut rest = shared.iter();
        for own in &mut replaced.hooks {
            own.item.tensors.iter_mut().zip(&mut rest).for_each(|(tensor, new)| tensor.clone_from(new));
        }
        replaced
    }

    /// The same with the values of what is trained alone, outside any graph.
    pub fn without_autodiff(&self) -> Self {
        let value = |residual: &LowRank| LowRank {
            down: residual.down.clone().without_autodiff(),
            up: residual.up.clone().without_autodiff(),
            ..*residual
        };
        let values = |(site, all): (&String, &Vec<LowRank>)| (site.clone(), all.iter().map(value).collect());
        let detached = |own: &Windowed<Shared>| {
            let Shared { hook, tensors } = own.item.clone();
            let tensors = tensors.into_iter().map(Tensor::without_autodiff).collect();
            Windowed { window: own.window, item: Shared { hook: hook.detached(), tensors } }
        };
        Self {
            low_rank: self.low_rank.iter().map(values).collect(),
            hooks: self.hooks.iter().map(detached).collect(),
            ..self.clone()
        }
    }

    /// Takes in everything attached by `other`.
    pub fn extend(&mut self, other: Attachments) {
        for (site, items) in other.low_rank {
            self.low_rank.entry(site).or_default().extend(items);
        }
        for (site, items) in other.attention {
            self.attention.entry(site).or_default().extend(items);
        }
        let before = self.hooks.len();
        for (site, hooks) in other.states {
            self.states.entry(site).or_default().extend(hooks.into_iter().map(|hook| before + hook));
        }
        self.hooks.extend(other.hooks);
    }

    /// The same attachments at another progress of denoising, in `[0, 1]`.
    pub fn at(&self, progress: f32) -> Self {
        Self { progress, ..self.clone() }
    }

    /// Whether `site` does the same at every step: nothing but residuals without a window is attached to it.
    pub fn is_steady(&self, site: &str) -> bool {
        let always = |own: &LowRank| own.window == Window::ALWAYS;
        let residuals = self.low_rank.get(site).is_none_or(|residuals| residuals.iter().all(always));
        residuals && !self.attention.contains_key(site) && !self.states.contains_key(site)
    }

    /// Every site something is attached to.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.low_rank.keys().chain(self.attention.keys()).chain(self.states.keys()).map(String::as_str)
    }

    /// What the linear map at `site` with this weight and bias makes of `x (..., inputs)`, plus its active
    /// residuals.
    pub fn linear<const D: usize>(
        &self,
        site: &str,
        (weight, bias): (&ops::Weight, Option<&Tensor<1>>),
        x: Tensor<D>,
    ) -> Tensor<D> {
        let mut active = self.residuals(site);
        let Some(first) = active.next() else { return weight.linear(x, bias.cloned()) };
        let first = (first.down.clone(), first.up.clone(), first.scale);
        let output = weight.adapted(x.clone(), bias.cloned(), first);
        active.fold(output, |output, residual| output + residual.forward(x.clone()))
    }

    /// [`Attachments::linear`], and `activation` of it.
    pub fn linear_then<const D: usize>(
        &self,
        site: &str,
        (weight, bias): (&ops::Weight, Option<&Tensor<1>>),
        x: Tensor<D>,
        activation: Activation,
    ) -> Tensor<D> {
        match self.residuals(site).next() {
            None => weight.linear_then(x, bias.cloned(), Some(activation)),
            Some(_) => ops::activated(self.linear(site, (weight, bias), x), activation),
        }
    }

    /// What the convolution at `site` with this weight makes of `x (batch, rows, columns, inputs)`, plus
    /// `bias (1 or batch, outputs)` and its active residuals.
    pub fn conv2d(
        &self,
        site: &str,
        (weight, bias): (&Conv2dWeight, Tensor<2>),
        x: Tensor<4>,
        options: Conv2dOptions,
    ) -> Tensor<4> {
        let mut active = self.residuals(site).peekable();
        if active.peek().is_none() {
            return weight.conv2d(x, bias, options);
        }
        let output = weight.conv2d(x.clone(), bias, options);
        active
            .fold(output, |output, residual| output + residual.convolved(x.clone(), weight.kernel(), options))
    }

    /// The residuals of the linear map or convolution at `site` that are active.
    fn residuals(&self, site: &str) -> impl Iterator<Item = &LowRank> {
        let residuals = self.low_rank.get(site).map_or(&[][..], Vec::as_slice);
        residuals.iter().filter(|residual| residual.window.contains(self.progress))
    }

    /// Whether an active hook is attached to the attention at `site`.
    pub fn hooks_attention(&self, site: &str) -> bool {
        let active = |hooks: &Vec<Windowed<_>>| hooks.iter().any(|own| own.window.contains(self.progress));
        self.attention.get(site).is_some_and(active)
    }

    /// What the attention at `site` is to use.
    pub fn attention(&self, site: &str, inputs: AttentionInputs) -> AttentionInputs {
        let Some(hooks) = self.attention.get(site) else { return inputs };
        hooks
            .iter()
            .filter(|hook| hook.window.contains(self.progress))
            .fold(inputs, |inputs, hook| hook.item.attend(site, self.progress, inputs))
    }

    /// What the active hooks of states make of `hidden (batch, tokens, channels)` behind `site`.
    pub fn after(&self, site: &str, hidden: Tensor<3>) -> Tensor<3> {
        let Some(hooks) = self.states.get(site) else { return hidden };
        let active = hooks.iter().map(|&hook| &self.hooks[hook]);
        active.filter(|own| own.window.contains(self.progress)).fold(hidden, |hidden, own| {
            let call = Call { site, progress: self.progress, shared: &own.item.tensors };
            own.item.hook.pass(call, hidden)
        })
    }
}

/// Attachments by network, as its folder is called: `transformer`, `transformer_2`, `unet`, `text_encoder`.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    networks: BTreeMap<String, Attachments>,
    none: Attachments,
}

impl Attached {
    /// Nothing attached to any network.
    pub fn none() -> Self {
        Self::default()
    }

    /// `attachments` to `network` alone.
    pub fn one(network: &str, attachments: Attachments) -> Self {
        let mut attached = Self::none();
        attached.add(network, attachments);
        attached
    }

    /// Adds what is to be attached to `network`.
    pub fn add(&mut self, network: &str, attachments: Attachments) {
        self.networks.entry(network.to_owned()).or_default().extend(attachments);
    }

    /// What is attached to `network`.
    pub fn to(&self, network: &str) -> &Attachments {
        self.networks.get(network).unwrap_or(&self.none)
    }

    /// What is attached to `network`, to be changed.
    pub fn to_mut(&mut self, network: &str) -> &mut Attachments {
        self.networks.entry(network.to_owned()).or_default()
    }

    /// Takes in everything attached by `other`.
    pub fn extend(&mut self, other: Self) {
        for (network, attachments) in other.networks {
            self.networks.entry(network).or_default().extend(attachments);
        }
    }
}

//! Attachments: what every personalization method does to a frozen network.
//!
//! A network's linear maps, attentions and block outputs are *sites*, named by their published path. An
//! [`Attachments`] holds, for any of them, low-rank residuals, attention hooks and extra modules, each active
//! in a [`Window`] of the denoising steps. Networks ask it at every site and know no method.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::ops::{self, Activation};

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

/// Adds `scale * (x A^T) B^T` to a linear map, and never forms the dense sum.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// Down projection `(rank, inputs)`.
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

/// A module after a site; its output is added to the site's.
pub trait ExtraModule: Debug + Send + Sync {
    /// The addition to `hidden (batch, tokens, channels)`.
    fn forward(&self, site: &str, progress: f32, hidden: Tensor<3>) -> Tensor<3>;
}

#[derive(Clone, Debug)]
struct Windowed<T> {
    window: Window,
    item: T,
}

/// All attachments of one run, by site, and the progress of the current step.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    low_rank: BTreeMap<String, Vec<LowRank>>,
    attention: BTreeMap<String, Vec<Windowed<Arc<dyn AttentionHook>>>>,
    extra: BTreeMap<String, Vec<Windowed<Arc<dyn ExtraModule>>>>,
    progress: f32,
}

impl Attachments {
    /// Nothing attached: networks compute exactly what they would without.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a low-rank residual to the linear map at `site`.
    pub fn add_low_rank(&mut self, site: impl Into<String>, residual: LowRank) {
        self.low_rank.entry(site.into()).or_default().push(residual);
    }

    /// Adds a hook to the attention at `site`.
    pub fn add_attention(&mut self, site: impl Into<String>, window: Window, hook: Arc<dyn AttentionHook>) {
        self.attention.entry(site.into()).or_default().push(Windowed { window, item: hook });
    }

    /// Adds a module after `site`.
    pub fn add_extra(&mut self, site: impl Into<String>, window: Window, module: Arc<dyn ExtraModule>) {
        self.extra.entry(site.into()).or_default().push(Windowed { window, item: module });
    }

    /// The same with the values of low-rank residuals alone, outside any graph.
    pub fn without_autodiff(&self) -> Self {
        let value = |residual: &LowRank| LowRank {
            down: residual.down.clone().without_autodiff(),
            up: residual.up.clone().without_autodiff(),
            ..*residual
        };
        let values = |(site, all): (&String, &Vec<LowRank>)| (site.clone(), all.iter().map(value).collect());
        Self { low_rank: self.low_rank.iter().map(values).collect(), ..self.clone() }
    }

    /// Takes in everything attached by `other`.
    pub fn extend(&mut self, other: Attachments) {
        for (site, items) in other.low_rank {
            self.low_rank.entry(site).or_default().extend(items);
        }
        for (site, items) in other.attention {
            self.attention.entry(site).or_default().extend(items);
        }
        for (site, items) in other.extra {
            self.extra.entry(site).or_default().extend(items);
        }
    }

    /// The same attachments at another progress of denoising, in `[0, 1]`.
    pub fn at(&self, progress: f32) -> Self {
        Self { progress, ..self.clone() }
    }

    /// Whether `site` does the same at every step: nothing but residuals without a window is attached to it.
    pub fn is_steady(&self, site: &str) -> bool {
        let always = |own: &LowRank| own.window == Window::ALWAYS;
        let residuals = self.low_rank.get(site).is_none_or(|residuals| residuals.iter().all(always));
        residuals && !self.attention.contains_key(site) && !self.extra.contains_key(site)
    }

    /// Every site something is attached to.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.low_rank.keys().chain(self.attention.keys()).chain(self.extra.keys()).map(String::as_str)
    }

    /// What the linear map at `site` with this weight and bias makes of `x (..., inputs)`, plus its active residuals.
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

    /// The residuals of the linear map at `site` that are active.
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

    /// `hidden` after `site`, plus the active extra modules.
    pub fn after(&self, site: &str, hidden: Tensor<3>) -> Tensor<3> {
        let Some(modules) = self.extra.get(site) else { return hidden };
        modules.iter().filter(|module| module.window.contains(self.progress)).fold(
            hidden,
            |hidden, module| {
                let addition = module.item.forward(site, self.progress, hidden.clone());
                hidden + addition
            },
        )
    }
}

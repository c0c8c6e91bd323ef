//! Guidance: predictions under several texts or attachments, weighed against one another.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use understudy_engine::attach::{Attached, Attachments, Window};

use super::context::{Context, pyramid};
use crate::network::{Conditioned, Control, Denoiser, Step, Texts};

/// A condition under which a denoiser is asked, and how much its answer counts.
#[derive(Debug)]
pub struct Branch<'a> {
    /// A text for each video, or one for all.
    pub texts: Texts,
    /// What is attached for it. Neighbours with the very same run as one batch, the first ones first.
    pub attached: &'a Attached,
    /// Weight of its answer. The last branch has what the weights before it leave of 1.
    pub weight: f32,
}

/// Branches that run together, and their weights.
struct Together<'a> {
    conditioned: Box<dyn Conditioned + 'a>,
    /// What controls are told.
    texts: Texts,
    weights: Vec<f32>,
}

/// A denoiser under branches: the weighted sum of their predictions. With a prompt of weight `g` before a
/// negative one it is classifier-free guidance, `negative + g (prompt - negative)` (Ho and Salimans, 2022).
pub struct Guided<'a> {
    groups: Vec<Together<'a>>,
    /// The part of denoising in which all branches count; in the rest the first alone does.
    window: Window,
    videos: usize,
    controls: &'a [Control],
    context: Option<Context>,
}

impl<'a> Guided<'a> {
    /// Of `branches` for so many `videos`. Outside `window` the first is all there is, which costs less
    /// (Kynkäänniemi and others, "Applying Guidance in a Limited Interval", 2024). For `reuse` see
    /// [`Denoiser::with_texts`].
    pub fn new(
        denoiser: &'a dyn Denoiser,
        branches: Vec<Branch<'a>>,
        videos: usize,
        window: Window,
        reuse: Option<f32>,
    ) -> Self {
        let mut groups: Vec<(Vec<Texts>, Vec<f32>, &'a Attached)> = Vec::new();
        for Branch { texts, attached, weight } in branches {
            let texts = if texts.words.dims()[0] < videos { texts.repeat(videos) } else { texts };
            match groups.last_mut().filter(|(.., own)| std::ptr::eq(*own, attached)) {
                Some((all, weights, _)) => {
                    all.push(texts);
                    weights.push(weight);
                }
                None => groups.push((vec![texts], vec![weight], attached)),
            }
        }
        let together = |(texts, weights, attached): (Vec<Texts>, Vec<f32>, &'a Attached)| {
            let texts = Texts::cat(texts);
            let conditioned = denoiser.with_texts(texts.clone(), attached, reuse);
            Together { conditioned, texts, weights }
        };
        let groups = groups.into_iter().map(together).collect();
        Self { groups, window, videos, controls: &[], context: None }
    }

    /// The same under `controls`.
    pub fn controlled(self, controls: &'a [Control]) -> Self {
        Self { controls, ..self }
    }

    /// The same in windows over the frames, where there is a context.
    pub fn windowed(self, context: Option<Context>) -> Self {
        Self { context, ..self }
    }

    /// The prediction at step `index` of `total`, whose latents and timestep are of the videos, once each.
    pub fn predict(&mut self, latents: &Tensor<5>, timestep: f32, step: [usize; 2]) -> Tensor<5> {
        let frames = latents.dims()[2];
        let windows = self.context.map(|context| context.windows(frames, step[0])).unwrap_or_default();
        if windows.len() < 2 {
            return self.predict_frames(latents, timestep, step, None);
        }
        let device = latents.device();
        let mut sum = latents.zeros_like();
        let mut weights = vec![0.0; frames];
        for window in windows {
            let own: Vec<i32> = window.iter().map(|frame| *frame as i32).collect();
            let own = Tensor::<1, Int>::from_data(TensorData::new(own, [window.len()]), &device);
            let counts = pyramid(window.len());
            window.iter().zip(&counts).for_each(|(frame, weight)| weights[*frame] += weight);
            let counts = Tensor::<1>::from_floats(counts.as_slice(), &device).reshape([1, 1, -1, 1, 1]);
            let seen = latents.clone().select(2, own.clone());
            let prediction = self.predict_frames(&seen, timestep, step, Some(&own)) * counts;
            sum = sum.select_assign(2, own, prediction, IndexingUpdateOp::Add);
        }
        sum / Tensor::<1>::from_floats(weights.as_slice(), &device).reshape([1, 1, -1, 1, 1])
    }

    /// The same of latents of all frames, or of those that are `chosen`.
    fn predict_frames(
        &mut self,
        latents: &Tensor<5>,
        timestep: f32,
        [index, total]: [usize; 2],
        chosen: Option<&Tensor<1, Int>>,
    ) -> Tensor<5> {
        let progress = index as f32 / total.max(1) as f32;
        let whole = self.window.contains(progress);
        let mut predictions: Vec<(Tensor<5>, f32)> = Vec::new();
        let (controls, videos) = (self.controls, self.videos);
        let active = || controls.iter().filter(move |control| control.is_active(index, total));
        for (group_index, group) in self.groups.iter_mut().enumerate() {
            let count = if whole { group.weights.len() } else { 1 };
            let timesteps = vec![timestep; count * self.videos];
            let repeated = match count {
                1 => latents.clone(),
                _ => Tensor::cat(vec![latents.clone(); count], 0),
            };
            let mut step = Step { latents: repeated, timesteps: &timesteps, progress, attached: None };
            let mut attachments = Attachments::none();
            for control in active() {
                // The first branch of all is the prompt's.
                let guessed = control.guess.then_some(if group_index == 0 { videos } else { 0 });
                let Control { network, pictures, weight, .. } = control;
                let pictures = match chosen {
                    Some(frames) => pictures.clone().select(2, frames.clone()),
                    None => pictures.clone(),
                };
                attachments.extend(network.attachments(&step, &group.texts, &pictures, *weight, guessed));
            }
            step.attached = Some(&attachments);
            let all = group.conditioned.predict(step);
            if !whole {
                return all;
            }
            let one = |index: usize| all.clone().narrow(0, index * self.videos, self.videos);
            predictions.extend(group.weights.iter().enumerate().map(|(index, weight)| (one(index), *weight)));
        }
        let Some((last, _)) = predictions.pop() else { return latents.zeros_like() };
        let add = |sum: Tensor<5>, (own, weight): (Tensor<5>, f32)| sum + (own - last.clone()) * weight;
        predictions.into_iter().fold(last.clone(), add)
    }

    /// How many steps went without most blocks.
    pub fn skipped(&self) -> usize {
        self.groups.iter().map(|group| group.conditioned.skipped()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use understudy_engine::host::values;
    use understudy_engine::replay::BlockStack;

    use super::*;
    use crate::network::End;
    use crate::noise::Noise;

    /// It answers with its text's number, and remembers how many samples it was asked for.
    #[derive(Debug)]
    struct Echo;

    struct Said(Tensor<3>);

    impl Conditioned for Said {
        fn predict(&mut self, step: Step<'_>) -> Tensor<5> {
            let samples = step.timesteps.len();
            let words = self.0.clone().narrow(0, 0, samples).reshape([samples, 1, 1, 1, 1]);
            step.latents.zeros_like() + words
        }
    }

    impl Denoiser for Echo {
        fn name(&self) -> &'static str {
            "transformer"
        }

        fn noise(&self) -> &Noise {
            &Noise::Flow
        }

        fn depth(&self) -> usize {
            0
        }

        fn with_texts<'a>(
            &'a self,
            texts: Texts,
            _: &'a Attached,
            _: Option<f32>,
        ) -> Box<dyn Conditioned + 'a> {
            Box::new(Said(texts.words))
        }

        fn stack<'a>(
            &'a self,
            _: &Texts,
            _: Step<'_>,
            _: &'a Attached,
            _: End<'a>,
        ) -> Box<dyn BlockStack + 'a> {
            unreachable!("nothing is trained here")
        }
    }

    fn texts(numbers: &[f32]) -> Texts {
        let words = Tensor::<1>::from_floats(numbers, &Device::flex()).reshape([numbers.len(), 1, 1]);
        Texts { words, pooled: None }
    }

    #[test]
    fn predictions_are_weighed_and_outside_the_window_the_first_is_alone() {
        let [one, other] = [Attached::none(), Attached::none()];
        let branch = |numbers: &[f32], attached, weight| Branch { texts: texts(numbers), attached, weight };
        let branches =
            vec![branch(&[1.0, 2.0], &one, 3.0), branch(&[10.0], &other, 0.5), branch(&[100.0], &other, 0.0)];
        let window = Window { start: 0.0, end: 0.5 };
        let mut guided = Guided::new(&Echo, branches, 2, window, None);
        let latents = Tensor::zeros([2, 1, 1, 1, 1], &Device::flex());
        // 3 a + 0.5 b - 2.5 c
        let expected = [3.0 + 5.0 - 250.0, 6.0 + 5.0 - 250.0];
        assert_eq!(values(guided.predict(&latents, 500.0, [1, 5])), expected);
        assert_eq!(values(guided.predict(&latents, 500.0, [4, 5])), [1.0, 2.0]);
    }
}

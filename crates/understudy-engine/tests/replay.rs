//! Replay of blocks against the plain graph: on a toy stack whose blocks share a state, and on one whose
//! later half takes up what the earlier left.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::{Attachments, LowRank, Window};
use understudy_engine::ops::{self, AttentionOptions};
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_engine::random::Random;
use understudy_engine::replay::{BlockStack, State, backward};

const CHANNELS: usize = 8;
const DEPTH: usize = 4;

struct Toy<'a> {
    leaves: &'a Leaves,
    input: Tensor<3>,
    frozen: Vec<Tensor<2>>,
    /// Whether the first half of the blocks leaves skips for the second.
    skips: bool,
}

impl Toy<'_> {
    /// A frozen map with a trained low-rank residual.
    fn map(&self, name: &str, index: usize, x: Tensor<3>) -> Tensor<3> {
        let mut attachments = Attachments::none();
        let residual = LowRank {
            down: self.leaves.tensor(&format!("{name}.down"), [2, CHANNELS]).unwrap(),
            up: self.leaves.tensor(&format!("{name}.up"), [CHANNELS, 2]).unwrap(),
            scale: 0.5,
            window: Window::ALWAYS,
        };
        attachments.add_low_rank(name, residual);
        attachments.linear(name, (&ops::Weight::new(self.frozen[index].clone()), None), x)
    }
}

impl BlockStack for Toy<'_> {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn begin(&self) -> (State, Vec<Tensor<3>>) {
        let shared = self.map("shared", DEPTH, self.input.clone());
        (self.map("begin", DEPTH + 1, self.input.clone()).into(), vec![shared])
    }

    fn block(&self, index: usize, state: State, shared: &[Tensor<3>]) -> State {
        let State { mut hidden, mut skips } = state;
        if self.skips && index >= DEPTH / 2 {
            hidden = hidden + skips.pop().unwrap() * 0.7;
        }
        let x = ops::gelu_tanh(self.map(&format!("block{index}"), index, hidden.clone()));
        let heads = |t: Tensor<3>| t.unsqueeze_dim::<4>(1);
        let attended = ops::attention(
            heads(x),
            heads(shared[0].clone()),
            heads(shared[0].clone()),
            AttentionOptions::default(),
        );
        let hidden = hidden + attended.squeeze_dim::<3>(1);
        if self.skips && index < DEPTH / 2 {
            skips.push(hidden.clone());
        }
        State { hidden, skips }
    }

    fn loss(&self, state: State, shared: &[Tensor<3>]) -> Tensor<1> {
        assert!(state.skips.is_empty());
        (self.map("end", DEPTH + 2, state.hidden) - shared[0].clone()).powi_scalar(2).mean()
    }
}

fn parameters() -> Parameters {
    let names = ["shared", "begin", "end"].map(str::to_owned).into_iter();
    let mut parameters = Parameters::new();
    for (index, name) in names.chain((0..DEPTH).map(|i| format!("block{i}"))).enumerate() {
        for (part, shape) in [("down", [2, CHANNELS]), ("up", [CHANNELS, 2])] {
            let values = Random::stream(index as u64, part, 0).normals(2 * CHANNELS);
            parameters.insert(format!("{name}.{part}"), &shape, values, &Device::flex());
        }
    }
    parameters
}

#[test]
fn gradients_equal_the_plain_graphs() {
    [false, true].into_iter().for_each(compare);
}

fn compare(skips: bool) {
    let device = Device::flex();
    let parameters = parameters();
    let frozen: Vec<Tensor<2>> = (0..DEPTH + 3)
        .map(|i| Random::new(50 + i as u64, 0).normal_tensor([CHANNELS, CHANNELS], &device) * 0.4)
        .collect();
    let input: Tensor<3> = Random::new(40, 0).normal_tensor([2, 5, CHANNELS], &device);
    let run = |replayed: bool| {
        let leaves = parameters.leaves();
        let toy = Toy { leaves: &leaves, input: input.clone(), frozen: frozen.clone(), skips };
        let (loss, gradients) = backward(&toy, &leaves, replayed);
        (loss.into_scalar::<f32>(), gradients)
    };
    let ((plain_loss, plain), (loss, found)) = (run(false), run(true));
    assert_eq!(plain_loss, loss);
    assert_eq!(plain.len(), 2 * (DEPTH + 3));
    for (name, expected) in plain {
        let expected: Vec<f32> = expected.into_data().try_into_vec().unwrap();
        let found: Vec<f32> = found[&name].clone().into_data().try_into_vec().unwrap();
        let scale = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        assert!(scale > 0.0, "{name}: no gradient");
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * scale, "{name}: {a} and {b}");
        }
    }
}

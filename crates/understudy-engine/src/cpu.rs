//! The bridge between burn's tensors and the slice kernels of `understudy-kernels`.
//!
//! A [`CpuOp`] is a function of `N` f32 tensors with a handwritten gradient. [`apply`] runs it on the Flex
//! backend and, when any input is tracked, records it as one node of burn's autodiff graph. Everything the
//! backward pass needs is kept explicitly, so that a frozen weight costs no activation memory.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::tensor::{DType, Shape, Tensor};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::{Flex, FlexTensor, Layout};

use burn::backend::tensor::FloatTensor;
use understudy_kernels::Floats;

use crate::memory;

type Tracked = FloatTensor<Autodiff<Flex>>;

/// A contiguous f32 array with its shape: what kernels read and write.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    tensor: FlexTensor,
}

impl Array {
    /// Wraps `data`, whose length must be the product of `shape`.
    pub(crate) fn new(data: impl Into<Floats>, shape: impl Into<Shape>) -> Self {
        let (data, shape) = (data.into(), shape.into());
        debug_assert_eq!(data.len(), shape.num_elements());
        let bytes = memory::bytes(data);
        Self { tensor: FlexTensor::new(bytes, Layout::contiguous(shape), DType::F32) }
    }

    fn from_primitive(tensor: FlexTensor) -> Self {
        match swapped_heads(&tensor) {
            Some(array) => array,
            None => Self { tensor: tensor.to_contiguous() },
        }
    }

    /// `tensor` if it is an f32 tensor of the CPU engine that belongs to no graph and lies there as it is: no
    /// number of it is seen in two places.
    pub(crate) fn frozen<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        match Primitive::of(tensor)? {
            Primitive::Plain(tensor) => {
                let layout = tensor.layout();
                (layout.is_contiguous() && layout.start_offset() == 0).then_some(Self { tensor })
            }
            Primitive::Tracked(_) => None,
        }
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.tensor.storage::<f32>()[..self.len()]
    }

    pub(crate) fn len(&self) -> usize {
        self.tensor.layout().num_elements()
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        self.tensor.layout().shape().to_vec()
    }
}

/// A `(batch, heads, tokens, dim)` view of a `(batch, tokens, heads, dim)` array, the commonest view there
/// is, copied in runs of `dim` on all threads.
fn swapped_heads(tensor: &FlexTensor) -> Option<Array> {
    let shape = tensor.layout().shape().to_vec();
    let &[batch, heads, tokens, dim] = shape.as_slice() else { return None };
    let [h, t, d] = [heads as isize, tokens as isize, dim as isize];
    let strided = tensor.layout().strides() == [t * h * d, d, h * d, 1];
    if !strided || heads == 1 || tokens == 1 || tensor.dtype() != DType::F32 {
        return None;
    }
    let start = tensor.layout().start_offset();
    let length = shape.iter().product::<usize>();
    let source = tensor.storage::<f32>().get(start..start + length)?;
    let mut data = Floats::unspecified(length);
    understudy_kernels::transpose_heads(source, batch, tokens, heads, dim, &mut data);
    Some(Array::new(data, shape))
}

/// A differentiable function of `N` arrays, computed by slice kernels.
pub(crate) trait CpuOp<const N: usize>: Clone + Debug + Send + 'static {
    /// The output, and whatever else the backward pass should find (statistics, for instance).
    fn forward(&self, inputs: [&Array; N]) -> (Array, Vec<Array>);

    /// The same where there will be no backward pass.
    fn infer(&self, inputs: [&Array; N]) -> (Array, Vec<Array>) {
        self.forward(inputs)
    }

    /// Which inputs, and whether the output, the backward pass reads, given which inputs want gradients.
    fn keeps(&self, wanted: [bool; N]) -> ([bool; N], bool);

    /// The gradients of the inputs that want one. `kept.inputs[i]` is there exactly when [`CpuOp::keeps`]
    /// asked for it.
    fn backward(&self, kept: &Kept<N>, grad: &Array, wanted: [bool; N]) -> [Option<Array>; N];
}

/// What [`apply`] kept for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Kept<const N: usize> {
    inputs: [Option<Array>; N],
    output: Option<Array>,
    extra: Vec<Array>,
    shapes: [Vec<usize>; N],
}

impl<const N: usize> Kept<N> {
    /// Input `index`, which [`CpuOp::keeps`] must have asked for.
    pub(crate) fn input(&self, index: usize) -> &[f32] {
        self.inputs[index].as_ref().map(Array::data).unwrap_or(&[])
    }

    /// The output, which [`CpuOp::keeps`] must have asked for.
    pub(crate) fn output(&self) -> &[f32] {
        self.output.as_ref().map(Array::data).unwrap_or(&[])
    }

    /// The `index`-th extra result of the forward pass.
    pub(crate) fn extra(&self, index: usize) -> &[f32] {
        self.extra[index].data()
    }

    pub(crate) fn shape(&self, index: usize) -> &[usize] {
        &self.shapes[index]
    }
}

/// A tensor without its rank in the type, on the Flex backend, inside or outside an autodiff graph.
pub(crate) enum Primitive {
    Plain(FlexTensor),
    Tracked(Box<Tracked>),
}

impl Primitive {
    /// The primitive of `tensor`, or `None` when it is not an f32 tensor of the CPU engine.
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        if tensor.is_autodiff() {
            let tracked = tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
            Some(Self::Tracked(Box::new(tracked)))
        } else {
            Some(Self::Plain(tensor.clone().try_into_primitive::<Flex>().ok()?))
        }
    }

    /// `array` outside any graph.
    pub(crate) fn from_array(array: &Array) -> Self {
        Self::Plain(array.tensor.clone())
    }

    /// The tensor of rank `D` this primitive is.
    pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
        match self {
            Self::Plain(primitive) => Tensor::from_primitive::<Flex>(primitive),
            Self::Tracked(primitive) => Tensor::from_primitive::<Autodiff<Flex>>(*primitive),
        }
    }

    fn is_tracked(&self) -> bool {
        matches!(self, Self::Tracked(tensor) if tensor.is_tracked())
    }

    fn into_plain(self) -> FlexTensor {
        match self {
            Self::Plain(tensor) => tensor,
            Self::Tracked(tensor) => tensor.into_primitive(),
        }
    }

    fn into_tracked(self) -> Tracked {
        match self {
            Self::Plain(tensor) => Tracked::new(tensor),
            Self::Tracked(tensor) => *tensor,
        }
    }
}

/// Runs `op`, recording it in the autodiff graph when an input is tracked.
pub(crate) fn apply<const N: usize, O: CpuOp<N>>(op: O, inputs: [Primitive; N]) -> Primitive {
    apply_with_extra(op, inputs).0
}

/// The same, giving the forward pass's extra results too.
pub(crate) fn apply_with_extra<const N: usize, O: CpuOp<N>>(
    op: O,
    inputs: [Primitive; N],
) -> (Primitive, Vec<Array>) {
    if !inputs.iter().any(Primitive::is_tracked) {
        let autodiff = inputs.iter().any(|input| matches!(input, Primitive::Tracked(_)));
        let arrays = inputs.map(|input| Array::from_primitive(input.into_plain()));
        let (output, extra) = op.infer(arrays.each_ref());
        let output = if autodiff {
            Primitive::Tracked(Box::new(Tracked::new(output.tensor)))
        } else {
            Primitive::Plain(output.tensor)
        };
        return (output, extra);
    }
    let wanted = inputs.each_ref().map(Primitive::is_tracked);
    let inputs = inputs.map(Primitive::into_tracked);
    let nodes = inputs.each_ref().map(|input| input.node());
    let arrays = inputs.map(|input| Array::from_primitive(input.into_primitive()));
    let (output, extra) = op.forward(arrays.each_ref());
    let shapes = arrays.each_ref().map(Array::shape);
    let (keep_inputs, keep_output) = op.keeps(wanted);
    let mut keep = keep_inputs.into_iter();
    let inputs = arrays.map(|array| keep.next().unwrap_or(true).then_some(array));
    let kept = Kept { inputs, output: keep_output.then(|| output.clone()), extra: extra.clone(), shapes };
    let step = OpStep::<O> { op: PhantomData };
    let output = match step.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish((op, kept), output.tensor),
        OpsKind::UnTracked(prepared) => prepared.finish(output.tensor),
    };
    (Primitive::Tracked(Box::new(output)), extra)
}

struct OpStep<O> {
    op: PhantomData<O>,
}

impl<O> Debug for OpStep<O> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(std::any::type_name::<O>())
    }
}

impl<const N: usize, O: CpuOp<N>> Backward<Flex, N> for OpStep<O> {
    type State = (O, Kept<N>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = Array::from_primitive(grads.consume::<Flex>(&ops.node));
        let (op, kept) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = op.backward(&kept, &grad, wanted);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(result)) = (parent, result) {
                grads.register::<Flex>(parent.id, result.tensor);
            }
        }
    }
}

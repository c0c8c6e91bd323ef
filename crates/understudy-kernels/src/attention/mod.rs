//! Attention without the score matrix: forward with a running softmax, backward by recomputation.

mod backward;
mod bf16;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::attention_backward;
pub use forward::attention_forward;

use crate::matmul::MatRef;
use crate::par::Shared;

/// Queries handled together.
const QUERIES: usize = 128;
/// Keys handled together.
const KEYS: usize = 512;

/// Sizes of an attention: queries (batch, heads, q_tokens, dim), keys and values (batch, heads, k_tokens,
/// dim), or, with `heads_inside`, (batch, q_tokens, heads, dim) and (batch, k_tokens, heads, dim).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Batch items.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Queries of each head.
    pub q_tokens: usize,
    /// Keys of each head.
    pub k_tokens: usize,
    /// Width of a head.
    pub dim: usize,
    /// Whether the heads of a token lie together, as linear maps give them.
    pub heads_inside: bool,
}

/// Which keys may be attended to: (batch, k_tokens), `true` for yes.
pub type KeyMask<'a> = &'a [bool];

impl AttentionShape {
    fn q_len(&self) -> usize {
        self.batch * self.heads * self.q_tokens * self.dim
    }

    fn k_len(&self) -> usize {
        self.batch * self.heads * self.k_tokens * self.dim
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32], mask: Option<KeyMask>, bias: Option<&[f32]>) {
        assert_eq!(q.len(), self.q_len(), "attention: length of q");
        assert_eq!(k.len(), self.k_len(), "attention: length of k");
        assert_eq!(v.len(), self.k_len(), "attention: length of v");
        assert!(
            mask.is_none_or(|m| m.len() == self.batch * self.k_tokens),
            "attention: mask is (batch, k_tokens)"
        );
        let table = self.heads * self.q_tokens * self.k_tokens;
        assert!(
            bias.is_none_or(|b| [self.k_tokens, table, self.batch * table].contains(&b.len())),
            "attention: bias is (k_tokens) or (heads or batch * heads, q_tokens, k_tokens)"
        );
    }

    /// Where `token` of `tokens` of `head` (counted over the batch) begins.
    fn at(&self, head: usize, token: usize, tokens: usize) -> usize {
        let (item, inner) = (head / self.heads, head % self.heads);
        if self.heads_inside {
            ((item * tokens + token) * self.heads + inner) * self.dim
        } else {
            (head * tokens + token) * self.dim
        }
    }

    /// From one token of a head to the next.
    fn stride(&self) -> usize {
        if self.heads_inside { self.heads * self.dim } else { self.dim }
    }

    /// Tokens `first..first + rows` of `tokens` of `head`, as a matrix (rows, dim).
    fn rows<'a>(
        &self,
        x: &'a [f32],
        head: usize,
        (first, rows): (usize, usize),
        tokens: usize,
    ) -> MatRef<'a> {
        MatRef {
            data: &x[self.at(head, first, tokens)..],
            rows,
            cols: self.dim,
            row_stride: self.stride(),
            col_stride: 1,
        }
    }

    /// Copies `from` (rows, dim) to the tokens from `first` on of `head`.
    ///
    /// # Safety
    ///
    /// No other task may touch these tokens of this head.
    unsafe fn store(&self, from: &[f32], to: &Shared<f32>, head: usize, first: usize, tokens: usize) {
        for (row, from) in from.chunks_exact(self.dim).enumerate() {
            // SAFETY: by the caller's promise.
            unsafe { to.slice(self.at(head, first + row, tokens), self.dim) }.copy_from_slice(from);
        }
    }

    /// The bias of `head` (counted over the batch).
    fn bias<'a>(&self, bias: Option<&'a [f32]>, head: usize) -> Option<Bias<'a>> {
        let table = self.q_tokens * self.k_tokens;
        bias.map(|b| {
            if b.len() == self.k_tokens {
                return Bias { data: b, stride: 0 };
            }
            let head = if b.len() == self.heads * table { head % self.heads } else { head };
            Bias { data: &b[head * table..(head + 1) * table], stride: self.k_tokens }
        })
    }

    /// The mask of `head` (counted over the batch).
    fn mask<'a>(&self, mask: Option<KeyMask<'a>>, head: usize) -> Option<KeyMask<'a>> {
        let item = head / self.heads;
        mask.map(|m| &m[item * self.k_tokens..(item + 1) * self.k_tokens])
    }
}

/// What is added to the scores of a head: a row for each query, or one for all.
#[derive(Clone, Copy)]
struct Bias<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Bias<'a> {
    /// Of `query`, for so many keys from `key` on.
    fn row(self, query: usize, key: usize, keys: usize) -> &'a [f32] {
        &self.data[query * self.stride + key..][..keys]
    }
}

/// Turns products `q k` of one row into scores: scaled, bias added, masked keys at minus infinity.
#[inline(always)]
fn scores(row: &mut [f32], scale: f32, bias: Option<&[f32]>, mask: Option<&[bool]>) {
    match bias {
        Some(bias) => row.iter_mut().zip(bias).for_each(|(s, b)| *s = *s * scale + b),
        None => row.iter_mut().for_each(|s| *s *= scale),
    }
    if let Some(mask) = mask {
        row.iter_mut().zip(mask).for_each(|(s, m)| *s = if *m { *s } else { f32::NEG_INFINITY });
    }
}

//! Tile products by AMX-BF16. The intrinsics are not stable, hence the assembly.

use super::{Block, LANES};
use std::arch::asm;
use std::marker::PhantomData;

/// Layout `ldtilecfg` reads.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tile registers as 16 rows of 64 bytes.
static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Bytes from one row of a packed tile to the next.
const ROW: usize = 64;
/// Bytes from one row of a left tile to the next, and from one tile to the next, when packed.
const PACKED: (usize, usize) = (ROW, 1024);

/// The tile registers of this thread, configured; released when dropped. Bound to its thread.
pub(super) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Only reached through `Bf16Path::Amx`, which exists where AMX-BF16 does and is permitted.
    pub(super) fn configure() -> Self {
        // SAFETY: the instruction exists (above) and reads 64 bytes from a static of that size.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly, preserves_flags))
        };
        Tiles(PhantomData)
    }

    /// # Safety
    ///
    /// The panels must hold `block.tiles` tiles, and the output must be valid and unique.
    pub(super) unsafe fn block(&self, block: &Block) {
        // SAFETY: the caller's promise, and that of `within`.
        unsafe { within(block, |c, ld, accumulate| full(block, c, ld, accumulate, PACKED)) };
    }

    /// The same of operands in parts; see [`super::multiply_parts`].
    ///
    /// # Safety
    ///
    /// As [`Tiles::block`], of every part.
    pub(super) unsafe fn parts(&self, block: &Block, (left, right): (usize, Option<usize>)) {
        // The smallest first, which are lost beside the others.
        const ORDER: [(usize, usize); 6] = [(0, 2), (1, 1), (2, 0), (0, 1), (1, 0), (0, 0)];
        const EXACT: [(usize, usize); 3] = [(2, 0), (1, 0), (0, 0)];
        let product = |&(a, b): &(usize, usize)| {
            let ([a0, a1], [b0, b1]) = (block.a, block.b);
            let (a, b) = (a * left, b * right.unwrap_or(0));
            [a0.wrapping_add(a), a1.wrapping_add(a), b0.wrapping_add(b), b1.wrapping_add(b)]
        };
        let compute = |table: &[[*const u16; 4]]| {
            // SAFETY: the caller's promise, and that of `within`.
            unsafe { within(block, |c, ld, accumulate| sums(table, block.tiles, c, ld, accumulate)) };
        };
        match right {
            Some(_) => compute(&ORDER.each_ref().map(product)),
            None => compute(&EXACT.each_ref().map(product)),
        }
    }
}

/// Calls `compute` with where a whole block goes, how far its rows are apart, and whether it is added: the
/// output, or, where the block is cut off, a scratch block of which the rest is taken.
///
/// # Safety
///
/// The output must be valid and unique.
unsafe fn within(block: &Block, compute: impl Fn(*mut f32, usize, bool)) {
    if block.rows == 2 * LANES && block.cols == 2 * LANES {
        compute(block.c, block.ld, block.accumulate);
    } else {
        let mut edge = [0f32; 4 * LANES * LANES];
        compute(edge.as_mut_ptr(), 2 * LANES, false);
        for (r, edge) in edge.chunks_exact(2 * LANES).enumerate().take(block.rows) {
            // SAFETY: row `r` and `cols` columns lie inside the output.
            let c = unsafe { std::slice::from_raw_parts_mut(block.c.add(r * block.ld), block.cols) };
            for (c, e) in c.iter_mut().zip(edge) {
                *c = if block.accumulate { *c + e } else { *e };
            }
        }
    }
}

impl Tiles {
    /// See [`super::multiply_gathered`]: both panels of the left, both column groups of the right operand.
    ///
    /// # Safety
    ///
    /// The panels must hold a tile for each offset, and the right operand 16 rows of 64 bytes, `stride`
    /// elements apart, from each start and offset.
    pub(super) unsafe fn gathered(
        &self,
        a: [*const u16; 2],
        b: [*const u16; 2],
        stride: usize,
        offsets: &[usize],
        sums: &mut [f32; 4 * LANES * LANES],
    ) {
        if offsets.is_empty() {
            sums.fill(0.0);
            return;
        }
        if a[0] == a[1] {
            // Sixteen rows only: the second half of the sums does not matter.
            // SAFETY: as below.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "mov {at}, [{offsets}]",
                    "lea {left}, [{b0} + 2 * {at}]",
                    "lea {right}, [{b1} + 2 * {at}]",
                    "tileloadd tmm6, [{left} + {stride}]",
                    "tileloadd tmm4, [{a0} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{right} + {stride}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {a0}, 1024",
                    "add {offsets}, 8",
                    "dec {count}",
                    "jnz 2b",
                    "add {row}, 64",
                    "tilestored [{c} + {row}], tmm0",
                    "tilestored [{c} + {row} + 64], tmm1",
                    at = out(reg) _,
                    left = out(reg) _,
                    right = out(reg) _,
                    offsets = inout(reg) offsets.as_ptr() => _,
                    count = inout(reg) offsets.len() => _,
                    a0 = inout(reg) a[0] => _,
                    b0 = in(reg) b[0],
                    b1 = in(reg) b[1],
                    stride = in(reg) stride * 2,
                    row = inout(reg) ROW => _,
                    c = in(reg) sums.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
            return;
        }
        // SAFETY: the caller's promise; `sums` is 32 rows of 128 bytes; the registers named are declared as
        // clobbered.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {at}, [{offsets}]",
                "lea {left}, [{b0} + 2 * {at}]",
                "lea {right}, [{b1} + 2 * {at}]",
                "tileloadd tmm6, [{left} + {stride}]",
                "tileloadd tmm4, [{a0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {offsets}, 8",
                "dec {count}",
                "jnz 2b",
                "add {row}, 64",
                "tilestored [{c} + {row}], tmm0",
                "tilestored [{c} + {row} + 64], tmm1",
                "tilestored [{c} + {row} + 2048], tmm2",
                "tilestored [{c} + {row} + 2112], tmm3",
                at = out(reg) _,
                left = out(reg) _,
                right = out(reg) _,
                offsets = inout(reg) offsets.as_ptr() => _,
                count = inout(reg) offsets.len() => _,
                a0 = inout(reg) a[0] => _,
                a1 = inout(reg) a[1] => _,
                b0 = in(reg) b[0],
                b1 = in(reg) b[1],
                stride = in(reg) stride * 2,
                row = inout(reg) ROW => _,
                c = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Tiles {
    /// A whole block whose left tiles lie `stride` elements a row in memory, one after another along the
    /// rows.
    ///
    /// # Safety
    ///
    /// The rows of both operands must hold `block.tiles` tiles, and the output must be valid and unique.
    pub(super) unsafe fn shifted(&self, block: &Block, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { full(block, block.c, block.ld, block.accumulate, (2 * stride, ROW)) };
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction exists where a `Tiles` does.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// 32 by 32 outputs: tiles 0 to 3 hold the sums, 4 and 5 the left, 6 and 7 the right operand.
///
/// # Safety
///
/// The tile registers must be configured, the panels hold `block.tiles` tiles, and `c` 32 rows of 32, `ld`
/// apart.
unsafe fn full(block: &Block, c: *mut f32, ld: usize, accumulate: bool, (left, next): (usize, usize)) {
    let c_low = c.wrapping_add(LANES * ld);
    // SAFETY: the caller's promise; the registers named are declared as clobbered.
    unsafe {
        asm!(
            "test {acc}, {acc}",
            "jnz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c0} + {ld}]",
            "tileloadd tmm1, [{c0} + {ld} + 64]",
            "tileloadd tmm2, [{c1} + {ld}]",
            "tileloadd tmm3, [{c1} + {ld} + 64]",
            "3:",
            "test {tiles}, {tiles}",
            "jz 5f",
            "4:",
            "tileloadd tmm6, [{b0} + {row}]",
            "tileloadd tmm4, [{a0} + {left}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {left}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, {next}",
            "add {a1}, {next}",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {tiles}",
            "jnz 4b",
            "5:",
            "tilestored [{c0} + {ld}], tmm0",
            "tilestored [{c0} + {ld} + 64], tmm1",
            "tilestored [{c1} + {ld}], tmm2",
            "tilestored [{c1} + {ld} + 64], tmm3",
            acc = in(reg) accumulate as usize,
            tiles = inout(reg) block.tiles => _,
            a0 = inout(reg) block.a[0] => _,
            a1 = inout(reg) block.a[1] => _,
            b0 = inout(reg) block.b[0] => _,
            b1 = inout(reg) block.b[1] => _,
            c0 = in(reg) c,
            c1 = in(reg) c_low,
            ld = in(reg) ld * 4,
            row = in(reg) ROW,
            left = in(reg) left,
            next = in(reg) next,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 32 by 32 sums of several products, each of two left and two right panels of `tiles` tiles: tiles 0 to 3
/// hold the sums.
///
/// One product has [`full`]: through this, with a table of one, products 256 deep took a third longer.
///
/// # Safety
///
/// The tile registers must be configured, the panels hold `tiles` tiles, and `c` 32 rows of 32, `ld` apart.
unsafe fn sums(products: &[[*const u16; 4]], tiles: usize, c: *mut f32, ld: usize, accumulate: bool) {
    assert!(!products.is_empty() && tiles > 0, "nothing to sum");
    let c_low = c.wrapping_add(LANES * ld);
    // SAFETY: the caller's promise; the registers named are declared as clobbered.
    unsafe {
        asm!(
            "test {count}, {count}",
            "jnz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c0} + {ld}]",
            "tileloadd tmm1, [{c0} + {ld} + 64]",
            "tileloadd tmm2, [{c1} + {ld}]",
            "tileloadd tmm3, [{c1} + {ld} + 64]",
            "3:",
            "mov {a0}, [{table}]",
            "mov {a1}, [{table} + 8]",
            "mov {b0}, [{table} + 16]",
            "mov {b1}, [{table} + 24]",
            "mov {count}, {tiles}",
            "4:",
            "tileloadd tmm6, [{b0} + {row}]",
            "tileloadd tmm4, [{a0} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {count}",
            "jnz 4b",
            "add {table}, 32",
            "dec {products}",
            "jnz 3b",
            "tilestored [{c0} + {ld}], tmm0",
            "tilestored [{c0} + {ld} + 64], tmm1",
            "tilestored [{c1} + {ld}], tmm2",
            "tilestored [{c1} + {ld} + 64], tmm3",
            count = inout(reg) accumulate as usize => _,
            tiles = in(reg) tiles,
            products = inout(reg) products.len() => _,
            table = inout(reg) products.as_ptr() => _,
            a0 = out(reg) _,
            a1 = out(reg) _,
            b0 = out(reg) _,
            b1 = out(reg) _,
            c0 = in(reg) c,
            c1 = in(reg) c_low,
            ld = in(reg) ld * 4,
            row = in(reg) ROW,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

//! What a sampling loop asks the allocator for once it runs.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::device;
use understudy_engine::allocator::Allocator;
use understudy_engine::ops::Products;
use understudy_pipeline::{Base, Event, Files, Request, generate};

/// Less than this, such as the room products are packed in, comes from a thread's own lists.
const LARGE: usize = 1 << 17;
/// What the sampler makes of latents and the denoiser of its input and output is burn's, and small: latents
/// here are 80 kB.
const LATENTS: usize = 16 * 16 * 16 * 5 * 4;

static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            ASKED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { Allocator.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            ASKED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { Allocator.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Allocator.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

#[test]
fn later_steps_live_in_the_memory_of_earlier_ones() {
    for bf16 in [false, true] {
        let _products = Products::rounded(bf16).scope();
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../understudy-nano/weights");
        let base = Base::load(&Files::folder(weights), &device()).unwrap();
        let request = Request {
            frames: 17,
            height: 64,
            width: 64,
            steps: 8,
            guidance: 4.0,
            ..Request::new("a red robot")
        };
        let mut asked = Vec::new();
        generate(&base, &request, &mut |event| {
            if matches!(event, Event::Step { .. }) {
                asked.push(ASKED.load(Ordering::Relaxed));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let steps: Vec<usize> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // UniPC keeps two predictions: from the third step on everything there will be is there.
        assert!(
            steps[2..].iter().all(|&bytes| bytes <= 12 * LATENTS),
            "bytes in large arrays, by step, bf16 {bf16}: {steps:?}"
        );
    }
}

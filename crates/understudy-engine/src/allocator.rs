//! The allocator of programs that compute here.

use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;

use mimalloc::MiMalloc;

/// More than any machine has: whoever asks for so much reads a damaged file and can do without.
const ABSURD: usize = 1 << 44;

/// mimalloc, and one line on stderr and exit code 1 where there is no memory left. Tensors are large and
/// short-lived; the system's allocator gives each back to the kernel and pays for fresh pages at every
/// operation.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

// SAFETY: every call goes to mimalloc as it came.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        there(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        there(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        there(unsafe { MiMalloc.realloc(pointer, layout, size) }, size)
    }
}

/// `pointer`, or the end of the program: nothing that asks for memory here can do without it.
fn there(pointer: *mut u8, bytes: usize) -> *mut u8 {
    if pointer.is_null() && bytes < ABSURD {
        // On the stack: there is no memory to put the line together in.
        let mut line = [0; 160];
        let _ = std::io::stderr().write_all(said(bytes, &mut line));
        std::process::exit(1)
    }
    pointer
}

/// What is said when so many bytes are not to be had.
fn said(bytes: usize, line: &mut [u8]) -> &[u8] {
    let mut rest = &mut *line;
    let (number, unit) = match bytes {
        0..1024 => (bytes, "bytes"),
        1024..1_048_576 => (bytes >> 10, "kB"),
        _ => (bytes >> 20, "MB"),
    };
    let _ = writeln!(
        rest,
        "error: out of memory, asking for {number} {unit} more; ask for less at a time: fewer frames, a smaller size or batch"
    );
    let unused = rest.len();
    &line[..line.len() - unused]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_zeroed_grown_and_taken_back() {
        let layout = Layout::from_size_align(1 << 16, 64).unwrap();
        // SAFETY: the layout has a size, and every pointer is given back as it was got.
        unsafe {
            let pointer = Allocator.alloc_zeroed(layout);
            assert!(std::slice::from_raw_parts(pointer, layout.size()).iter().all(|byte| *byte == 0));
            *pointer = 7;
            let grown = Allocator.realloc(pointer, layout, 1 << 20);
            assert_eq!((*grown, grown as usize % 64), (7, 0));
            Allocator.dealloc(grown, Layout::from_size_align(1 << 20, 64).unwrap());
        }
    }

    #[test]
    fn the_end_is_one_line() {
        let mut line = [0; 160];
        let text = String::from_utf8(said(3 << 30, &mut line).to_vec()).unwrap();
        assert!(text.contains("3072 MB") && text.ends_with("batch\n"), "{text}");
        let text = String::from_utf8(said(12, &mut line).to_vec()).unwrap();
        assert!(text.contains("12 bytes more"), "{text}");
        assert!(there(std::ptr::null_mut(), usize::MAX).is_null());
    }
}

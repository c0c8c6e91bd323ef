//! Adapter files: reading, and converting to every dialect and reading that again.
#![no_main]

use burn::tensor::Device;
use libfuzzer_sys::fuzz_target;
use understudy_personalize::{Adapter, Dialect, Unmatched, convert};

fuzz_target!(|bytes: &[u8]| {
    let file = understudy_fuzz::file(bytes);
    let Ok((adapter, _)) = Adapter::open_with(file.path(), &Device::flex(), Unmatched::Allow) else { return };
    let _ = adapter.attachments(0.5);
    let _ = adapter.additions(0.5, true);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let to = folder.path().join("x.safetensors");
    for dialect in Dialect::ALL {
        if convert(file.path(), &to, dialect, Unmatched::Allow).is_ok() {
            // What was written is an adapter, unless the rounding of a scale made numbers infinite.
            let _ = Adapter::open(&to, &Device::flex());
        }
    }
});

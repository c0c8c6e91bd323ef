//! tokenizer.json.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use understudy_pipeline::Tokenizer;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // The library's panics are caught where it is called; the fuzzer's own hook would end the run first. A panic that
    // is not caught still does.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    if let Ok(tokenizer) = Tokenizer::from_bytes(bytes, "x") {
        let _ = tokenizer.encode(&["a red ball", "  é\u{3000}ﬁ 🎈 "], 64);
    }
});

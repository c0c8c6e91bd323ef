//! SentencePiece models.
#![no_main]

use libfuzzer_sys::fuzz_target;
use understudy_pipeline::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_spiece(bytes, "x") {
        let _ = tokenizer.encode(&["a red ball", "  é\u{3000}ﬁ 🎈 "], 64);
    }
});

//! Files of weights as people have them: other names, other encodings, other models, and files that changed
//! or broke.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use common::{check, copy_folder, device, folder, go, values};
use understudy_engine::encoding::Encoding;
use understudy_engine::safetensors::{Checkpoint, NamedValues, Precision, StoredTensor, write, write_stored};
use understudy_pipeline::{
    Base, Error, Event, Files, LoadOptions, Parts, Request, Source, Tokenizer, encode_prompt, generate,
    recognize,
};

const A: &str = "wan_pipeline_a";

/// Names in diffusers and in Wan's release of what the tiny denoiser has in a block.
const BLOCK: [(&str, &str); 12] = [
    ("attn1.to_q", "self_attn.q"),
    ("attn1.to_k", "self_attn.k"),
    ("attn1.to_v", "self_attn.v"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn1.norm_", "self_attn.norm_"),
    ("attn2.to_q", "cross_attn.q"),
    ("attn2.to_k", "cross_attn.k"),
    ("attn2.to_v", "cross_attn.v"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn2.norm_", "cross_attn.norm_"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
];
/// And outside of the blocks.
const OUTSIDE: [(&str, &str); 7] = [
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    ("scale_shift_table", "head.modulation"),
];

/// `name` as Wan's release has it.
fn original(name: &str) -> String {
    if !name.starts_with("blocks.") {
        let found =
            OUTSIDE.iter().find_map(|(own, other)| Some(format!("{other}{}", name.strip_prefix(own)?)));
        return found.unwrap_or_else(|| name.to_owned());
    }
    let name = name.replace("scale_shift_table", "modulation").replace(".norm2.", ".norm3.");
    BLOCK.iter().fold(name, |name, (own, other)| name.replace(own, other))
}

/// The tensors of a file, renamed.
fn tensors(path: &Path, rename: impl Fn(&str) -> String) -> Vec<NamedValues> {
    let file = Checkpoint::open(path, &device()).unwrap();
    let tensor = |info: understudy_engine::safetensors::TensorInfo| {
        let (values, shape) = file.values(&info.name).unwrap();
        NamedValues { name: rename(&info.name), shape, values }
    };
    file.infos().into_iter().map(tensor).collect()
}

fn transformer(rename: impl Fn(&str) -> String) -> Vec<NamedValues> {
    tensors(&folder(A).join("transformer/diffusion_pytorch_model.safetensors"), rename)
}

/// Base a with another denoiser.
fn with_transformer(path: &Path) -> Source {
    Source::Parts(Parts { transformer: path.to_owned(), ..Parts::published(&folder(A)).unwrap() })
}

fn small() -> Request {
    Request {
        frames: 5,
        height: 16,
        width: 16,
        steps: 2,
        max_sequence_length: Some(24),
        ..Request::new("a red ball")
    }
}

fn latents(base: &Base) -> Vec<f32> {
    values(generate(base, &small(), &mut go).unwrap().latents)
}

fn same(source: &Source) {
    let expected = latents(&common::base(A));
    assert_eq!(latents(&source.load(&device()).unwrap()), expected);
}

/// The message of a denoiser that is refused.
fn refused(tensors: &[NamedValues]) -> String {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("wan.safetensors");
    write(&path, tensors, BTreeMap::new(), Precision::F32).unwrap();
    let message = with_transformer(&path).load(&device()).unwrap_err().to_string();
    assert!(message.contains("wan.safetensors") && !message.contains('\n'), "{message}");
    message
}

#[test]
fn the_denoiser_may_have_any_programs_names() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("wan.safetensors");
    for prefix in ["", "model.diffusion_model.", "diffusion_model.", "model."] {
        for own in [false, true] {
            let rename =
                |name: &str| format!("{prefix}{}", if own { original(name) } else { name.to_owned() });
            write(&path, &transformer(rename), BTreeMap::new(), Precision::F32).unwrap();
            same(&with_transformer(&path));
        }
    }
}

#[test]
fn a_missing_tensor_is_named_as_the_file_names_its_others() {
    for (prefix, missing) in [
        ("", "blocks.1.ffn.2.weight"),
        ("", "blocks.0.ffn.0.weight"),
        ("", "blocks.0.self_attn.q.bias"),
        ("", "blocks.1.modulation"),
        ("", "head.modulation"),
        ("", "blocks.0.norm3.weight"),
        ("model.diffusion_model.", "text_embedding.0.bias"),
    ] {
        let mut tensors = transformer(|name| format!("{prefix}{}", original(name)));
        let own = format!("{prefix}{missing}");
        let count = tensors.len();
        tensors.retain(|tensor| tensor.name != own);
        assert_eq!(tensors.len() + 1, count, "{missing}");
        let message = refused(&tensors);
        assert!(
            message.contains(&format!("1 missing ({own} ")) && !message.contains("not used"),
            "{message}"
        );
    }
    // The whole of the last block but one tensor.
    let mut tensors = transformer(original);
    tensors
        .retain(|tensor| !tensor.name.starts_with("blocks.1.") || tensor.name.ends_with("self_attn.q.bias"));
    let message = refused(&tensors);
    assert!(message.contains("blocks.1.self_attn.k.weight") && !message.contains("not used"), "{message}");

    // Without its folder a file tells it, too.
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("wan.safetensors");
    let mut tensors = transformer(original);
    tensors
        .retain(|tensor| tensor.name != "blocks.1.ffn.2.weight" && tensor.name != "patch_embedding.weight");
    write(&path, &tensors, BTreeMap::new(), Precision::F32).unwrap();
    let found = recognize(&Checkpoint::open(&path, &device()).unwrap());
    assert!(found[0].not_supported.as_deref().unwrap().contains("patch_embedding.weight"), "{found:?}");
    let mut tensors = transformer(original);
    tensors.retain(|tensor| tensor.name != "blocks.1.ffn.2.weight");
    write(&path, &tensors, BTreeMap::new(), Precision::F32).unwrap();
    let found = recognize(&Checkpoint::open(&path, &device()).unwrap());
    assert_eq!(found[0].missing, ["blocks.1.ffn.2.weight [32, 64]"]);
    assert!(found[0].unknown.is_empty());
}

#[test]
fn other_kinds_of_wan_are_named() {
    let further = |names: &[&str]| {
        let mut tensors = transformer(original);
        for name in names {
            tensors.push(NamedValues { name: (*name).to_owned(), shape: vec![32], values: vec![0.0; 32] });
        }
        refused(&tensors)
    };
    for (names, kind) in [
        (&["vace_patch_embedding.weight", "vace_blocks.0.modulation"][..], "VACE"),
        (&["img_emb.proj.1.weight", "blocks.0.cross_attn.k_img.weight"], "I2V"),
        (&["img_emb.emb_pos", "img_emb.proj.1.weight"], "FLF2V"),
        (&["casual_audio_encoder.weights"], "S2V"),
    ] {
        let message = further(names);
        assert!(message.contains(kind) && message.contains("only text-to-video"), "{message}");
        assert!(!message.contains("download") && !message.contains("not used"), "{message}");
    }
    // A folder whose weights are of another kind than it says.
    let target = tempfile::tempdir().unwrap();
    let published = Parts::published(&folder(A)).unwrap();
    let mut tensors = transformer(str::to_owned);
    tensors.push(NamedValues {
        name: "vace_blocks.0.proj_in.weight".to_owned(),
        shape: vec![1],
        values: vec![0.0],
    });
    let path = target.path().join("wan.safetensors");
    write(&path, &tensors, BTreeMap::new(), Precision::F32).unwrap();
    let source = Source::Parts(Parts { transformer: path, ..published });
    assert!(source.open(&device()).unwrap_err().to_string().contains("VACE"));
}

/// An fp8 number and what it stands for.
fn eighth(value: f32) -> (u8, f32) {
    // Powers of two from 1/64 to 256, and their negatives, are exact.
    let exponent = value.abs().max(1.0 / 64.0).log2().floor().clamp(-6.0, 8.0);
    let byte = ((exponent as i32 + 7) as u8) << 3 | if value < 0.0 { 0x80 } else { 0 };
    (byte, 2_f32.powf(exponent).copysign(value))
}

/// What is written of a linear map in fp8, and what it stands for: each run of `size[1]` numbers in `size[0]`
/// rows has a scale.
fn quantized(tensor: &NamedValues, size: [usize; 2]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let columns = tensor.shape[1];
    let across = columns.div_ceil(size[1]);
    let down = tensor.shape[0].div_ceil(size[0]);
    let scales: Vec<f32> = (0..down * across).map(|index| 0.001 * (1 + index % 7) as f32).collect();
    let (mut bytes, mut stands) = (Vec::new(), Vec::new());
    for (index, value) in tensor.values.iter().enumerate() {
        let (row, column) = (index / columns, index % columns);
        let scale = scales[row / size[0] * across + column / size[1]];
        let (byte, number) = eighth(value / scale);
        bytes.push(byte);
        stands.push(number * scale);
    }
    (bytes, scales, stands)
}

#[test]
fn eight_bits_have_scales_of_tensors_rows_runs_and_squares() {
    let target = tempfile::tempdir().unwrap();
    let (stored, plain) = (target.path().join("fp8.safetensors"), target.path().join("f32.safetensors"));
    let layer = |name: &str| name.strip_suffix(".weight").map(str::to_owned);
    for (size, beside, shape) in [
        ([usize::MAX, usize::MAX], "scale_weight", &[][..]),
        ([usize::MAX, usize::MAX], "weight_scale", &[1]),
        ([1, usize::MAX], "weight_scale", &[0, 1]),
        ([1, usize::MAX], "weight._scale", &[0, 1]),
        ([1, 16], "scale_weight", &[0, 2, 1]),
        ([1, 8], "weight_scale", &[0, 4]),
        ([128, 128], "weight_scale_inv", &[1, 1]),
    ] {
        let mut quantizing = BTreeMap::new();
        let mut whole = Vec::new();
        for tensor in transformer(original) {
            // Square maps have runs of the same number everywhere.
            let own =
                layer(&tensor.name).filter(|_| tensor.shape == [32, 32] && tensor.name.contains("attn"));
            let Some(layer) = own else {
                let values = StoredTensor::new(&tensor.values, tensor.shape.clone(), Precision::F32);
                quantizing.insert(tensor.name.clone(), values);
                whole.push(tensor);
                continue;
            };
            let (bytes, scales, stands) = quantized(&tensor, size.map(|side| side.min(1 << 20)));
            let shape = shape.iter().map(|&extent| if extent == 0 { 32 } else { extent }).collect();
            let part = if beside == "weight._scale" { "._data" } else { "" };
            let encoding = Encoding::F8E4M3;
            let weight = StoredTensor { encoding, shape: tensor.shape.clone(), bytes };
            quantizing.insert(format!("{}{part}", tensor.name), weight);
            let scale = StoredTensor::new(&scales, shape, Precision::F32);
            quantizing.insert(format!("{layer}.{beside}"), scale);
            let note = StoredTensor::new(&[1.0], vec![1], Precision::F32);
            quantizing.insert(format!("{layer}.scale_input"), note);
            whole.push(NamedValues { values: stands, ..tensor });
        }
        let marker = StoredTensor { encoding: Encoding::F8E4M3, shape: vec![0], bytes: Vec::new() };
        quantizing.insert("scaled_fp8".to_owned(), marker);
        write_stored(&stored, &quantizing, BTreeMap::new()).unwrap();
        write(&plain, &whole, BTreeMap::new(), Precision::F32).unwrap();
        let [found, expected] =
            [&stored, &plain].map(|path| latents(&with_transformer(path).load(&device()).unwrap()));
        check(beside, &found, &expected, 1e-6);
    }
}

#[test]
fn scales_that_fit_nothing_are_told_with_both_shapes() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("fp8.safetensors");
    let weight = StoredTensor { encoding: Encoding::F8E4M3, shape: vec![4, 6], bytes: vec![0x38; 24] };
    let message = |scales: StoredTensor, name: &str| {
        let tensors = BTreeMap::from([("a.weight".to_owned(), weight.clone()), (name.to_owned(), scales)]);
        write_stored(&path, &tensors, BTreeMap::new()).unwrap();
        Checkpoint::open(&path, &device()).err().unwrap().to_string()
    };
    let scales = StoredTensor::new(&[1.0; 16], vec![4, 4, 1], Precision::F32);
    let said = message(scales, "a.scale_weight");
    for part in ["fp8.safetensors", "a.scale_weight", "[4, 4, 1]", "a.weight", "[4, 6]", "128 by 128", "bf16"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let note = br#"{"format": "nvfp4"}"#;
    let layout = StoredTensor { encoding: Encoding::U8, shape: vec![note.len()], bytes: note.to_vec() };
    let said = message(layout, "a.comfy_quant");
    assert!(said.contains("nvfp4") && said.contains("GGUF"), "{said}");
    let scales = StoredTensor::new(&[1.0], vec![1], Precision::F32);
    assert!(message(scales, "b.weight_scale").contains("there is no b.weight"));
}

/// A GGUF file.
#[derive(Default)]
struct Gguf {
    metadata: Vec<u8>,
    entries: u64,
    tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Gguf {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries += 1;
        text(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        self.metadata.extend(value);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let mut bytes = 8_u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| text(&mut bytes, value));
        self.entry(key, 9, &bytes);
    }

    fn numbers<const N: usize>(&mut self, key: &str, kind: u32, values: &[[u8; N]]) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.iter().flatten());
        self.entry(key, 9, &bytes);
    }

    fn write(&self, path: &Path) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.entries.to_le_bytes());
        bytes.extend(&self.metadata);
        let mut offset = 0_u64;
        for (name, shape, kind, data) in &self.tensors {
            text(&mut bytes, name);
            bytes.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|&extent| bytes.extend((extent as u64).to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset += data.len().next_multiple_of(32) as u64;
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        for (.., data) in &self.tensors {
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        std::fs::write(path, bytes).unwrap();
    }
}

/// A name of transformers as llama.cpp has it.
fn llama(name: &str) -> String {
    let parts = [
        ("encoder.block.", "enc.blk."),
        ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
        ("layer.0.SelfAttention.", "attn_"),
        ("layer.0.layer_norm", "attn_norm"),
        ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
        ("layer.1.DenseReluDense.wi_1", "ffn_up"),
        ("layer.1.DenseReluDense.wo", "ffn_down"),
        ("layer.1.layer_norm", "ffn_norm"),
        ("encoder.final_layer_norm", "enc.output_norm"),
        ("shared", "token_embd"),
    ];
    parts.iter().fold(name.to_owned(), |name, (own, other)| name.replace(own, other))
}

/// Blocks of 32 numbers of 8 bits and a scale, and what they stand for.
fn eight_bits(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut stands) = (Vec::new(), Vec::new());
    for block in values.chunks(32) {
        let most = block.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
        // A power of two, which as a half is its exponent.
        let exponent = (most / 127.0).log2().ceil();
        bytes.extend((((exponent as i32 + 15) as u16) << 10).to_le_bytes());
        for value in block {
            let quant = (value / exponent.exp2()).round().clamp(-127.0, 127.0);
            bytes.push(quant as i8 as u8);
            stands.push(quant * exponent.exp2());
        }
    }
    (bytes, stands)
}

#[test]
fn a_text_encoder_may_be_a_gguf_of_llama_cpp() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("umt5.gguf");
    let plain = target.path().join("umt5.safetensors");
    let own = tensors(&folder(A).join("text_encoder/model.safetensors"), str::to_owned);
    let parts =
        |path: &Path| Parts { text_encoder: path.to_owned(), ..Parts::published(&folder(A)).unwrap() };
    for quantized in [false, true] {
        let mut file = Gguf::default();
        let mut arch = Vec::new();
        text(&mut arch, "t5encoder");
        file.entry("general.architecture", 8, &arch);
        let mut whole = Vec::new();
        for tensor in &own {
            let name = llama(&tensor.name);
            // Rows of whole blocks only.
            let blocks =
                quantized && tensor.shape.last().is_some_and(|row| row % 32 == 0) && tensor.shape.len() == 2;
            let (kind, data, values) = if blocks {
                let (bytes, stands) = eight_bits(&tensor.values);
                (8, bytes, stands)
            } else {
                let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (0, bytes, tensor.values.clone())
            };
            file.tensors.push((name, tensor.shape.clone(), kind, data));
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            whole.push(NamedValues { name, shape, values });
        }
        // What writes text is no part of it.
        file.tensors.push(("dec.blk.0.attn_q.weight".into(), vec![4], 0, vec![0; 16]));
        file.write(&path);
        write(&plain, &whole, BTreeMap::new(), Precision::F32).unwrap();
        let [found, expected] =
            [&path, &plain].map(|path| latents(&Source::Parts(parts(path)).load(&device()).unwrap()));
        assert_eq!(found, expected);
        if !quantized {
            assert_eq!(found, latents(&common::base(A)));
        }
        let found = recognize(&Checkpoint::open(&path, &device()).unwrap());
        assert_eq!((found[0].network, found[0].names), ("text encoder", "llama.cpp"));
        assert!(found[0].missing.is_empty() && found[0].unknown.is_empty(), "{found:?}");
    }
    // Under its own name a missing tensor is told, and that there is no tokenizer.
    let mut file = Gguf::default();
    for tensor in own.iter().filter(|tensor| !tensor.name.contains("1.layer.1.DenseReluDense.wi_0")) {
        let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.tensors.push((llama(&tensor.name), tensor.shape.clone(), 0, bytes));
    }
    file.write(&path);
    let message = Source::Parts(parts(&path)).load(&device()).unwrap_err().to_string();
    assert!(message.contains("1 missing (enc.blk.1.ffn_gate.weight "), "{message}");
    let without = Parts { tokenizer: None, ..parts(&path) };
    let message = Source::Parts(without).open(&device()).unwrap_err().to_string();
    assert!(message.contains("umt5.gguf") && message.contains("--tokenizer"), "{message}");
}

#[test]
fn a_gguf_carries_its_tokenizer() {
    let golden = folder("spiece");
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("umt5.gguf");
    let texts =
        ["a red ball rolls to the left", "The  quick (brown) fox — 12", "unknown: \u{4e16}\u{754c} é", ""];
    for name in ["a.model", "b.model"] {
        let bytes = std::fs::read(golden.join(name)).unwrap();
        let model = Model::read(&bytes);
        let mut file = Gguf::default();
        let mut kind = Vec::new();
        text(&mut kind, "t5");
        file.entry("tokenizer.ggml.model", 8, &kind);
        // Converters fill up to the rows of the embedding.
        let filling = (0..3).map(|index| (format!("[PAD{index}]"), -1000.0_f32, 5_i32));
        let pieces: Vec<_> = model.pieces.into_iter().chain(filling).collect();
        let tokens: Vec<String> = pieces.iter().map(|(piece, ..)| piece.clone()).collect();
        file.texts("tokenizer.ggml.tokens", &tokens);
        let scores: Vec<[u8; 4]> = pieces.iter().map(|(_, score, _)| score.to_le_bytes()).collect();
        file.numbers("tokenizer.ggml.scores", 6, &scores);
        let kinds: Vec<[u8; 4]> = pieces.iter().map(|(.., kind)| kind.to_le_bytes()).collect();
        file.numbers("tokenizer.ggml.token_type", 5, &kinds);
        file.entry("tokenizer.ggml.unknown_token_id", 4, &model.unknown.to_le_bytes());
        if !model.characters.is_empty() {
            let map: Vec<[u8; 1]> = model.characters.iter().map(|byte| [*byte]).collect();
            file.numbers("tokenizer.ggml.precompiled_charsmap", 0, &map);
        }
        let rows = pieces.len();
        for tensor in tensors(&folder(A).join("text_encoder/model.safetensors"), llama) {
            let shape = match tensor.name.as_str() {
                "token_embd.weight" => vec![rows, tensor.shape[1]],
                _ => tensor.shape,
            };
            let bytes = vec![0; 4 * shape.iter().product::<usize>()];
            file.tensors.push((tensor.name, shape, 0, bytes));
        }
        file.write(&path);
        let published = Parts::published(&folder(A)).unwrap();
        let source = Source::Parts(Parts { text_encoder: path.clone(), tokenizer: None, ..published });
        let opened = source.open(&device()).unwrap();
        let found = opened.tokenizer();
        let expected = Tokenizer::from_spiece(&bytes, name).unwrap();
        assert_eq!(found.vocabulary(), expected.vocabulary());
        assert_eq!(found.encode(&texts, 64).unwrap(), expected.encode(&texts, 64).unwrap());
    }
}

/// What of a SentencePiece model a GGUF file has.
#[derive(Default)]
struct Model {
    pieces: Vec<(String, f32, i32)>,
    characters: Vec<u8>,
    unknown: u32,
}

impl Model {
    fn read(bytes: &[u8]) -> Self {
        let mut model = Self::default();
        for (field, value) in fields(bytes) {
            match (field, value) {
                (1, Value::Bytes(piece)) => {
                    let mut own = (String::new(), 0.0, 1);
                    for field in fields(piece) {
                        match field {
                            (1, Value::Bytes(text)) => own.0 = String::from_utf8(text.to_vec()).unwrap(),
                            (2, Value::Float(score)) => own.1 = score,
                            (3, Value::Integer(kind)) => own.2 = kind as i32,
                            _ => {}
                        }
                    }
                    model.pieces.push(own);
                }
                (2, Value::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        if let (40, Value::Integer(id)) = field {
                            model.unknown = id as u32;
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        if let (2, Value::Bytes(map)) = field {
                            model.characters = map.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        model
    }
}

/// A value in a protocol buffer.
enum Value<'a> {
    Integer(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut found = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            found |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        found
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let value = match key & 7 {
            0 => Value::Integer(number(&mut bytes)),
            2 => {
                let length = number(&mut bytes) as usize;
                let (own, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(own)
            }
            5 => {
                let (own, rest) = bytes.split_at(4);
                bytes = rest;
                Value::Float(f32::from_le_bytes(own.try_into().unwrap()))
            }
            _ => panic!("a field of another type"),
        };
        found.push((key >> 3, value));
    }
    found
}

#[test]
fn what_a_failed_download_leaves_is_named_in_a_folder() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let spoiled = |file: &str, content: &str| {
        let target = tempfile::tempdir().unwrap();
        copy_folder(&folder(A), target.path());
        std::fs::write(target.path().join(file), content).unwrap();
        let loaded = Base::load(&Files::folder(target.path()), &device());
        let message = loaded.unwrap_err().to_string();
        assert!(message.contains(file) && !message.contains('\n'), "{message}");
        message
    };
    for file in [
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "transformer/config.json",
        "model_index.json",
    ] {
        let message = spoiled(file, POINTER);
        assert!(message.contains("git-lfs pointer") && message.contains("git lfs pull"), "{message}");
        let message = spoiled(file, "<!DOCTYPE html><html><title>Hub</title></html>");
        assert!(message.contains("web page"), "{message}");
    }
    // Wan's own layout.
    let target = tempfile::tempdir().unwrap();
    for file in ["diffusion_pytorch_model.safetensors", "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth"] {
        std::fs::write(target.path().join(file), POINTER).unwrap();
    }
    let message = Source::folder(target.path()).unwrap_err().to_string();
    assert!(message.contains("git-lfs pointer") && message.contains("git lfs pull"), "{message}");
}

#[test]
fn a_byte_order_mark_before_any_json_of_a_base_is_no_part_of_it() {
    let target = tempfile::tempdir().unwrap();
    copy_folder(&folder(A), target.path());
    for file in [
        "model_index.json",
        "transformer/config.json",
        "text_encoder/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ] {
        let path = target.path().join(file);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, [b"\xef\xbb\xbf".as_slice(), &text].concat()).unwrap();
    }
    let loaded = Base::load(&Files::folder(target.path()), &device()).unwrap();
    assert_eq!(latents(&loaded), latents(&common::base(A)));
    // And in the index of shards.
    let weights = target.path().join("transformer/diffusion_pytorch_model.safetensors");
    std::fs::rename(&weights, weights.with_file_name("a.safetensors")).unwrap();
    let index = "\u{feff}{\"weight_map\": {\"x\": \"a.safetensors\"}}";
    std::fs::write(weights.with_extension("safetensors.index.json"), index).unwrap();
    let loaded = Base::load(&Files::folder(target.path()), &device()).unwrap();
    assert_eq!(latents(&loaded), latents(&common::base(A)));
}

#[test]
fn a_file_that_becomes_shorter_ends_a_run_and_not_the_program() {
    let target = tempfile::tempdir().unwrap();
    copy_folder(&folder(A), target.path());
    let files = Files::folder(target.path());
    let cut = |file: &str| {
        let file = OpenOptions::new().write(true).open(target.path().join(file)).unwrap();
        file.set_len(100).unwrap();
    };
    // Blocks that stay in their file.
    let options = LoadOptions { blocks_on_host: 1, ..LoadOptions::default() };
    let base = Base::load_with(&files, options, &device()).unwrap();
    let denoiser = "transformer/diffusion_pytorch_model.safetensors";
    let mut cut_late = |event: Event| {
        if let Event::Step { index: 0, .. } = event {
            cut(denoiser);
        }
        go(event)
    };
    let error = generate(&base, &Request { steps: 4, ..small() }, &mut cut_late).unwrap_err();
    assert!(matches!(&error, Error::Lost(_)), "{error}");
    let message = error.to_string();
    assert!(message.contains(denoiser) && message.contains("shorter than"), "{message}");

    // The decoder, which is read when all steps are done.
    copy_folder(&folder(A), target.path());
    let base = Base::load(&files, &device()).unwrap();
    let autoencoder = "vae/diffusion_pytorch_model.safetensors";
    let mut cut_late = |event: Event| {
        if let Event::Step { index: 1, .. } = event {
            cut(autoencoder);
        }
        go(event)
    };
    let message = generate(&base, &small(), &mut cut_late).unwrap_err().to_string();
    assert!(message.contains(autoencoder) && message.contains("shorter than"), "{message}");
    assert!(encode_prompt(&base, &["a ball"], Default::default()).is_err());
}

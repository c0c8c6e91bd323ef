//! Folders in and out, requests that cannot be met, and what must not depend on anything else.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use common::{Case, base, check, copy_folder, device, folder, go, values};
use serde_json::{Value, json};
use understudy_engine::attach::{Attached, Attachments, LowRank, Window};
use understudy_engine::ops::Products;
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::{Checkpoint, Precision};
use understudy_engine::weights::Weights;
use understudy_models::wan_vae::WanVae;
use understudy_pipeline::families::wan::{BaseParameters, WanConfig, save};
use understudy_pipeline::{
    Base, Error, Event, Files, LoadOptions, PromptOptions, Request, Sampler, Source, TokenEmbeddings,
    encode_prompt, generate,
};

const A: &str = "wan_pipeline_a";

/// A short run on base a.
fn small() -> Request {
    Request {
        frames: 5,
        height: 16,
        width: 16,
        steps: 3,
        max_sequence_length: Some(24),
        ..Request::new("a red ball rolls to the left")
    }
}

/// A copy of base a that may be spoiled.
fn copy() -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    copy_folder(&folder(A), target.path());
    target
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

fn load(folder: &Path) -> Result<Base, Error> {
    Base::load(&Files::folder(folder), &device())
}

/// The one-line error of base a after a change to the JSON `file`.
fn spoiled(file: &str, change: impl FnOnce(&mut Value)) -> String {
    let folder = copy();
    edit(&folder.path().join(file), change);
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains(file) && !message.contains('\n'), "{message}");
    message
}

#[test]
fn unsupported_folders_are_errors_that_name_file_and_field() {
    let message = spoiled("model_index.json", |v| v["_class_name"] = json!("FluxPipeline"));
    assert!(
        message.contains("_class_name is \"FluxPipeline\", not \"WanPipeline\" or \"AnimateDiffPipeline\"")
    );
    let message = spoiled("model_index.json", |v| v["transformer_2"] = json!(["diffusers", "X"]));
    assert!(message.contains("transformer_2: Wan 2.2 is not supported"));
    let message = spoiled("model_index.json", |v| v["max_sequence_length"] = json!("many"));
    assert!(message.contains("max_sequence_length"));
    let message = spoiled("transformer/config.json", |v| v["_class_name"] = json!("FluxTransformer"));
    assert!(message.contains("_class_name is \"FluxTransformer\""));
    let message = spoiled("transformer/config.json", |v| v["image_dim"] = json!(1280));
    assert!(message.contains("image_dim"));
    let message = spoiled("transformer/config.json", |v| v["text_dim"] = json!(24));
    assert!(message.contains("text_dim is 24, but the text encoder's d_model is 20"));
    let message = spoiled("transformer/config.json", |v| v["patch_size"] = json!([1, 2, 0]));
    assert!(message.contains("patch_size: must be between 1 and 64, not 0"));
    let message = spoiled("vae/config.json", |v| drop(v.as_object_mut().unwrap().remove("base_dim")));
    assert!(message.contains("missing field `base_dim`"));
    let message = spoiled("text_encoder/config.json", |v| v["architectures"] = json!(["T5EncoderModel"]));
    assert!(message.contains("architectures is \"T5EncoderModel\""));
    let message = spoiled("scheduler/scheduler_config.json", |v| v["solver_order"] = json!(3));
    assert!(message.contains("solver_order: 3 is not supported"));
    let message = spoiled("tokenizer/tokenizer.json", |v| v["model"] = json!({"type": "Unknown"}));
    assert!(message.contains("export the tokenizer again"));
}

#[test]
fn absurd_sizes_are_errors_and_take_no_memory() {
    let huge = 1_u64 << 40;
    for (part, field, value) in [
        ("transformer", "num_attention_heads", json!(0)),
        ("transformer", "attention_head_dim", json!(15)),
        ("transformer", "freq_dim", json!(0)),
        ("transformer", "freq_dim", json!(9)),
        ("transformer", "ffn_dim", json!(0)),
        ("transformer", "ffn_dim", json!(huge)),
        ("transformer", "num_layers", json!(huge)),
        ("transformer", "rope_max_seq_len", json!(0)),
        ("text_encoder", "vocab_size", json!(huge)),
        ("text_encoder", "num_heads", json!(0)),
        ("text_encoder", "relative_attention_num_buckets", json!(2)),
        ("text_encoder", "relative_attention_max_distance", json!(0)),
        ("vae", "base_dim", json!(0)),
        ("vae", "dim_mult", json!([1, 0])),
    ] {
        let message = spoiled(&format!("{part}/config.json"), |config| {
            config[field] = value.clone();
            if field == "dim_mult" {
                config["temperal_downsample"] = json!([true]);
            }
        });
        assert!(message.contains(field), "{field} {value}: {message}");
    }
    let message = spoiled("vae/config.json", |v| v["latents_std"][0] = json!(0.0));
    assert!(message.contains("latents_std: must be positive"), "{message}");

    // Within the limits, and not what the weights are: the tensors are named, and none of that size is made.
    let folder = copy();
    edit(&folder.path().join("text_encoder/config.json"), |v| v["vocab_size"] = json!(1 << 24));
    edit(&folder.path().join("text_encoder/config.json"), |v| v["d_ff"] = json!(1 << 16));
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("16777216"), "{message}");
}

#[test]
fn missing_files_and_tensors_are_errors() {
    let message = load(Path::new("/nowhere")).unwrap_err().to_string();
    assert!(message.contains("/nowhere/model_index.json") && message.contains("diffusers"), "{message}");

    let folder = copy();
    std::fs::remove_file(folder.path().join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("vae/diffusion_pytorch_model.safetensors"), "{message}");

    let message = {
        let folder = copy();
        edit(&folder.path().join("transformer/config.json"), |v| v["num_layers"] = json!(3));
        load(folder.path()).unwrap_err().to_string()
    };
    assert!(
        message.contains("missing (blocks.2.scale_shift_table") || message.contains("blocks.2."),
        "{message}"
    );
}

/// The message of a request that base a refuses.
fn refused(change: impl FnOnce(&mut Request)) -> String {
    let mut request = small();
    change(&mut request);
    generate(&base(A), &request, &mut go).unwrap_err().to_string()
}

#[test]
fn requests_that_cannot_be_met_say_what_can() {
    let rule = "does not fit this base: it must be 1 more than a multiple of 4";
    assert_eq!(refused(|r| r.frames = 6), format!("frames 6 {rule}; use 5 or 9"));
    assert_eq!(refused(|r| r.frames = 0), format!("frames 0 {rule}; use 1"));
    let rule = "does not fit this base: it must be a multiple of 8";
    assert_eq!(refused(|r| r.height = 20), format!("height 20 {rule}; use 16 or 24"));
    assert_eq!(refused(|r| r.width = 0), format!("width 0 {rule}; use 8"));
    assert!(refused(|r| r.width = 65 * 8).contains("positions for 64"));
    assert!(refused(|r| r.steps = 0).contains("steps must be between 1 and 1000"));
    assert!(refused(|r| r.guidance = f32::NAN).contains("guidance"));
    assert!(refused(|r| r.shift = Some(0.0)).contains("shift must be"));
    assert!(refused(|r| r.prompts.clear()).contains("prompts are empty"));
    let noise = Tensor::zeros([1, 8, 2, 4, 2], &device());
    let message = refused(|r| r.initial_noise = Some(noise));
    assert!(message.contains("[1, 8, 2, 4, 2]") && message.contains("[1, 8, 2, 4, 4]"), "{message}");
}

#[test]
fn a_long_prompt_is_refused_and_not_cut() {
    let exact = "a ".repeat(23);
    generate(&base(A), &Request { prompts: vec![exact], ..small() }, &mut go).unwrap();
    let message = refused(|r| r.prompts = vec!["a ".repeat(24)]);
    assert!(message.contains("has 25 tokens and the limit is 24"), "{message}");
    assert!(refused(|r| r.negative_prompt = "a ".repeat(24)).contains("25 tokens"));
}

#[test]
fn words_are_weighed_where_that_is_asked_for() {
    let base = base(A);
    let states = |prompt: &str, weighted| {
        let options = PromptOptions { max_sequence_length: Some(24), weighted, ..Default::default() };
        encode_prompt(&base, &[prompt], options).unwrap().words
    };
    let bits = |prompt, weighted| values(states(prompt, weighted));
    assert_eq!(bits("a (red:1) ball", true), bits("a red ball", false));
    assert_eq!(bits("a (red:2) ball", false), bits("a \\(red:2\\) ball", true));

    let [plain, empty] = ["a red ball", ""].map(|prompt| states(prompt, false));
    let weighed = states("(a:1.5) red ball", true);
    let first = |tensor: &Tensor<3>| values(tensor.clone().narrow(1, 0, 1));
    let rest = |tensor: &Tensor<3>| values(tensor.clone().narrow(1, 1, 23));
    let expected: Vec<f32> =
        first(&plain).iter().zip(first(&empty)).map(|(own, empty)| empty + 1.5 * (own - empty)).collect();
    check("first", &first(&weighed), &expected, 1e-6);
    assert_eq!(rest(&weighed), rest(&plain));

    let last = values(states("a red (ball:2)", true).narrow(1, 2, 1));
    let twice: Vec<f32> = values(plain.narrow(1, 2, 1)).iter().map(|value| 2.0 * value).collect();
    check("last", &last, &twice, 1e-6);
}

#[test]
fn weights_may_be_of_a_variant() {
    let copied = copy();
    let vae = copied.path().join("vae");
    std::fs::rename(
        vae.join("diffusion_pytorch_model.safetensors"),
        vae.join("diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    let folder = copied.path().join("transformer");
    let (index, variant) = (
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    );
    if folder.join(index).exists() {
        std::fs::rename(folder.join(index), folder.join(variant)).unwrap();
    }
    load(copied.path()).unwrap();
}

#[test]
fn the_same_request_gives_the_same_bits_and_another_seed_others() {
    let base = base(A);
    let run = |request: &Request| values(generate(&base, request, &mut go).unwrap().frames);
    let once = run(&small());
    assert_eq!(once, run(&small()));
    assert_ne!(once, run(&Request { seed: 1, ..small() }));
    assert!(once.iter().all(|x| (0.0..=1.0).contains(x)));
    for sampler in [Sampler::Euler, Sampler::DpmPlusPlus] {
        assert_ne!(once, run(&Request { sampler: Some(sampler), ..small() }));
    }
}

#[test]
fn every_prompt_of_a_batch_can_be_made_again_alone() {
    let base = base(A);
    let prompts = ["a red ball", "the blue cube jumps"].map(str::to_owned);
    let both = Request { prompts: prompts.to_vec(), seed: 4, ..small() };
    let both = generate(&base, &both, &mut go).unwrap().latents;
    for (index, prompt) in prompts.into_iter().enumerate() {
        let alone = Request { prompts: vec![prompt], seed: 4 + index as u64, ..small() };
        let alone = generate(&base, &alone, &mut go).unwrap().latents;
        let of_both = both.clone().narrow(0, index, 1);
        check("alone", &values(of_both), &values(alone), 1e-4);
    }
}

#[test]
fn events_come_in_order_and_a_break_stops_the_run() {
    let base = base(A);
    let mut events = Vec::new();
    let mut listen = |event: Event| {
        events.push(event);
        ControlFlow::Continue(())
    };
    generate(&base, &small(), &mut listen).unwrap();
    assert!(matches!(events[0], Event::Encoded { .. }));
    for (step, event) in events[1..4].iter().enumerate() {
        assert!(matches!(event, Event::Step { index, total: 3, .. } if *index == step));
    }
    assert!(matches!(events[4..], [Event::Decoded { .. }]));

    let mut stop = |event: Event| match event {
        Event::Step { index: 1, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = generate(&base, &small(), &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { done: 2, total: 3 }), "{error}");
}

#[test]
fn blocks_are_skipped_where_the_first_changes_little() {
    let base = base(A);
    let run = |block_reuse: Option<f32>| {
        let mut most = 0;
        let request = Request { block_reuse, steps: 6, ..small() };
        let output = generate(&base, &request, &mut |event| {
            if let Event::Step { skipped, .. } = event {
                most = skipped;
            }
            ControlFlow::Continue(())
        });
        (values(output.unwrap().latents), most)
    };
    let (plain, none) = run(None);
    assert_eq!(none, 0);
    assert!(run(Some(1e-6)) == (plain.clone(), 0));
    let (faster, skipped) = run(Some(1.0));
    assert!(skipped >= 1 && faster != plain);
    let message = generate(&base, &Request { block_reuse: Some(0.0), ..small() }, &mut go).unwrap_err();
    assert!(message.to_string().contains("block-reuse"), "{message}");
}

fn low_rank(outputs: usize, inputs: usize, window: Window) -> LowRank {
    let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, &device()) * 0.1;
    LowRank { down: ones([2, inputs]), up: ones([outputs, 2]), scale: 0.5, window }
}

#[test]
fn attachments_act_in_their_window_of_the_steps() {
    let base = base(A);
    let run = |site: &str, inputs: usize, start: f32, end: f32| {
        let mut attachments = Attachments::none();
        attachments.add_low_rank(site, low_rank(32, inputs, Window { start, end }));
        values(
            generate(
                &base,
                &Request { attached: Attached::one("transformer", attachments), ..small() },
                &mut go,
            )
            .unwrap()
            .latents,
        )
    };
    let plain = values(generate(&base, &small(), &mut go).unwrap().latents);
    let sites = [
        ("blocks.1.attn1.to_q", 32),
        ("blocks.1.attn2.to_k", 32),
        ("condition_embedder.text_embedder.linear_1", 20),
    ];
    for (site, inputs) in sites {
        // Steps are at progress 0, 1/3 and 2/3.
        assert_eq!(plain, run(site, inputs, 0.7, 0.9), "{site}");
        let [early, late] = [run(site, inputs, 0.0, 0.3), run(site, inputs, 0.6, 1.0)];
        assert!(plain != early && plain != late && early != late, "{site}");
    }
}

#[test]
fn subject_tokens_use_their_own_rows() {
    let base = base(A);
    let rows = |values: [f32; 20]| Tensor::<2>::from_floats([values], &device());
    let encode = |prompt: &str, token: &str, row: Tensor<2>| {
        let embeddings = TokenEmbeddings { tokens: vec![token.to_owned()], rows: row };
        let options = PromptOptions {
            max_sequence_length: Some(24),
            token_embeddings: Some(&embeddings),
            ..Default::default()
        };
        encode_prompt(&base, &[prompt], options).map(|texts| texts.words)
    };
    let plain = |prompt: &str| {
        let options = PromptOptions { max_sequence_length: Some(24), ..Default::default() };
        values(encode_prompt(&base, &[prompt], options).unwrap().words)
    };

    // A new token with the row of a word is that word.
    let checkpoint = Checkpoint::open(&folder(A).join("text_encoder/model.safetensors"), &device()).unwrap();
    let (table, _) = checkpoint.values("shared.weight").unwrap();
    let ball = base.networks.text.tokenizer().id("▁ball").unwrap() as usize;
    let ball: [f32; 20] = table[ball * 20..][..20].try_into().unwrap();
    let found = values(encode("a red <s> rolls", "<s>", rows(ball)).unwrap());
    check("subject token", &found, &plain("a red ball rolls"), 1e-6);

    // Without the token in the prompt nothing changes.
    assert_eq!(values(encode("a red ball", "<s>", rows([9.0; 20])).unwrap()), plain("a red ball"));

    // Gradients reach the rows.
    let tracked = rows([0.3; 20]).autodiff().require_grad();
    let gradients = encode("a <s> jumps", "<s>", tracked.clone()).unwrap().sum().backward();
    let gradient = values(tracked.grad(&gradients).unwrap());
    assert!(gradient.iter().all(|g| g.is_finite() && *g != 0.0));

    let narrow = Tensor::<2>::zeros([1, 7], &device());
    assert!(encode("a", "<s>", narrow).unwrap_err().to_string().contains("[1, 7]"));
    assert!(encode("a", "two words", rows([0.0; 20])).unwrap_err().to_string().contains("one word"));
}

#[test]
fn added_tokens_stand_after_the_vocabulary() {
    let base = base(A);
    let tokenizer = base.networks.text.tokenizer();
    let added = tokenizer.with_added(&["<s>".to_owned(), "<t>".to_owned()]).unwrap();
    assert_eq!(added.vocabulary(), tokenizer.vocabulary() + 2);
    let id = tokenizer.vocabulary() as u32;
    assert_eq!([added.id("<s>"), added.id("<t>")], [Some(id), Some(id + 1)]);
    let tokens = added.encode(&["a <s> and <t>"], 8).unwrap();
    let word = |piece: &str| tokenizer.id(piece).unwrap();
    assert_eq!(tokens.ids[0][..5], [word("▁a"), id, word("▁and"), id + 1, word("</s>")]);
    assert_eq!(tokens.lengths, [5]);
}

#[test]
fn videos_are_encoded_to_normalized_latents() {
    let base = base(A);
    let video = base.networks.vae.decode(Case::open(A).tensor("latents_out"), None) * 2.0 - 1.0;
    let latents = base.encode(video.clone()).unwrap();
    assert_eq!(latents.dims()[1..], base.about.geometry.latents([5, 32, 16]).unwrap());
    let file =
        Checkpoint::open(&folder(A).join("vae/diffusion_pytorch_model.safetensors"), &device()).unwrap();
    let vae = WanVae::new(&Weights::new(&file, &device()), &config().vae);
    let mean = vae.encode(video).mean;
    check("streamed", &values(vae.denormalize(latents)), &values(mean), 1e-5);
    let wrong = Tensor::<5>::zeros([1, 3, 4, 32, 16], &device());
    assert!(base.encode(wrong).unwrap_err().to_string().contains("use 1 or 5"));
}

fn config() -> WanConfig {
    WanConfig::read(&Files::folder(folder(A))).unwrap()
}

fn parameters(file: &str) -> Parameters {
    let checkpoint = Checkpoint::open(&folder(A).join(file), &device()).unwrap();
    let mut parameters = Parameters::new();
    for info in checkpoint.infos() {
        let (values, shape) = checkpoint.values(&info.name).unwrap();
        parameters.insert(info.name, &shape, values, &device());
    }
    parameters
}

#[test]
fn a_saved_folder_loads_as_the_same_base() {
    let original = base(A);
    let target = tempfile::tempdir().unwrap();
    let config = WanConfig { max_sequence_length: 24, ..config() };
    let [text_encoder, transformer, vae] = [
        parameters("text_encoder/model.safetensors"),
        parameters("transformer/diffusion_pytorch_model.safetensors"),
        parameters("vae/diffusion_pytorch_model.safetensors"),
    ];
    let networks = BaseParameters { text_encoder: &text_encoder, transformer: &transformer, vae: &vae };
    let request = Request { max_sequence_length: None, ..small() };
    let reference = generate(&original, &small(), &mut go).unwrap();
    for (precision, tolerance) in [(Precision::F32, 1e-9), (Precision::F16, 1e-2), (Precision::Bf16, 1e-1)] {
        save(target.path(), &config, original.networks.text.tokenizer(), networks, precision).unwrap();
        let loaded = load(target.path()).unwrap();
        assert_eq!(WanConfig::read(&Files::folder(target.path())).unwrap(), config);
        assert_eq!(loaded.about.text_limit, 24);
        assert_eq!(loaded.about.identity, original.about.identity);
        let output = generate(&loaded, &request, &mut go).unwrap();
        check("saved", &values(output.latents), &values(reference.latents.clone()), tolerance);
    }
}

#[test]
fn identity_tells_architectures_apart() {
    let [a, b] = [A, "wan_pipeline_b"].map(|name| base(name).about.identity.clone());
    assert_ne!(a, b);
    // Adapters carry it, so it must never change for the same architecture.
    assert_eq!(a, "wan-26fa557aae378c44");
    let folder = copy();
    edit(&folder.path().join("scheduler/scheduler_config.json"), |v| v["flow_shift"] = json!(5.0));
    edit(&folder.path().join("transformer/config.json"), |v| v["_diffusers_version"] = json!("9"));
    assert_eq!(load(folder.path()).unwrap().about.identity, a);
}

#[test]
fn embedded_files_give_the_same_as_the_folder() {
    fn list(folder: &Path, prefix: &str, files: &mut Vec<(&'static str, &'static [u8])>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                list(&entry.path(), &format!("{name}/"), files)
            } else {
                files.push((name.leak(), std::fs::read(entry.path()).unwrap().leak()))
            }
        }
    }
    let mut files = Vec::new();
    list(&folder(A), "", &mut files);
    let run = |files: &Files| {
        let base = Base::load(files, &Device::flex()).unwrap();
        values(generate(&base, &small(), &mut go).unwrap().frames)
    };
    let embedded = Files::Embedded { name: "nano", files: files.clone().leak() };
    assert_eq!(run(&embedded), run(&Files::folder(folder(A))));

    files.retain(|(name, _)| *name != "vae/config.json");
    let embedded = Files::Embedded { name: "nano", files: files.leak() };
    let message = Base::load(&embedded, &device()).unwrap_err().to_string();
    assert!(message.starts_with("nano/vae/config.json: "), "{message}");
}

#[test]
fn every_file_is_opened_once() {
    let folder = copy();
    let opened = Source::Files(Files::folder(folder.path())).open(&device()).unwrap();
    // What is asked for later is read from what is open.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(opened.about().identity, base(A).about.identity);
    assert!(opened.tokenizer().knows("ball"));
    let options = LoadOptions { blocks_on_host: 2, ..LoadOptions::default() };
    let found = generate(&opened.load(options).unwrap(), &small(), &mut go).unwrap().frames;
    assert_eq!(values(found), values(generate(&base(A), &small(), &mut go).unwrap().frames));
}

#[test]
fn runs_of_two_precisions_in_one_process_keep_their_numbers() {
    let run = |products: Products| {
        let _products = products.scope();
        values(generate(&base(A), &small(), &mut go).unwrap().latents)
    };
    let [single, rounded] = [Products::F32, Products::Bf16].map(run);
    assert_ne!(single, rounded);
    std::thread::scope(|threads| {
        let runs: Vec<_> = [Products::F32, Products::Bf16]
            .into_iter()
            .cycle()
            .take(6)
            .map(|products| threads.spawn(move || (products, run(products))))
            .collect();
        for thread in runs {
            let (products, found) = thread.join().unwrap();
            assert_eq!(
                found,
                if products == Products::F32 { &single } else { &rounded }.clone(),
                "{products:?}"
            );
        }
    });
}

//! Adapter files: dialects, what fits a base, and what is not a usable file.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use common::{attached, base, device, golden, open, small_request, values};
use understudy_engine::attach::Window;
use understudy_engine::random::Random;
use understudy_engine::safetensors::{NamedValues, Precision, write};
use understudy_engine::sites::Site;
use understudy_personalize::{
    Adapter, BaseName, Dialect, Error, Metadata, Residual, SubjectName, Targets, combine,
};
use understudy_pipeline::{Base, Request, generate};

fn random(rows: usize, columns: usize, seed: &str) -> Tensor<2> {
    let values = Random::stream(5, seed, 0).normals(rows * columns);
    Tensor::from_data(TensorData::new(values, [rows, columns]), &device())
}

fn adapter(base: &Base, up: f32) -> Adapter {
    let sites = Targets::AttentionAndFeedForward.resolve(base.about.denoiser_sites()).unwrap();
    let residual = |(site, own): (String, Site)| {
        let [outputs, inputs] = own.shape;
        let residual = Residual {
            down: random(3, inputs, &site),
            up: random(outputs, 3, &site) * up,
            alpha: 1.5,
            kernel: None,
        };
        (site, residual)
    };
    let residuals: BTreeMap<_, _> = sites.into_iter().map(residual).collect();
    let metadata = Metadata {
        base: Some(BaseName { identity: base.about.identity.clone(), name: "a".into() }),
        subject: Some(SubjectName { class: "ball".into(), token: "<s>".into() }),
        tokens: vec!["<s>".into()],
        window: Window { start: 0.25, end: 1.0 },
        base_size: Some([16, 16]),
        ..Metadata::new("lora", &residuals)
    };
    let token_rows = Some(random(1, base.about.text_table[1], "row"));
    Adapter { metadata, residuals, token_rows, ..Adapter::default() }
}

fn same(a: &Adapter, b: &Adapter) {
    assert_eq!(a.metadata, b.metadata);
    assert_eq!(a.residuals.keys().collect::<Vec<_>>(), b.residuals.keys().collect::<Vec<_>>());
    for (site, residual) in &a.residuals {
        let other = &b.residuals[site];
        assert_eq!(values(residual.down.clone()), values(other.down.clone()), "{site}");
        assert_eq!(values(residual.up.clone()), values(other.up.clone()), "{site}");
        assert_eq!(residual.alpha, other.alpha, "{site}");
    }
    assert_eq!(a.token_rows.clone().map(values), b.token_rows.clone().map(values));
}

#[test]
fn an_adapter_survives_every_dialect() {
    let base = base("wan_pipeline_a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let mut current = adapter(&base, 0.1);
    let original = current.clone();
    // From each dialect to each other.
    for dialect in Dialect::ALL.into_iter().chain(Dialect::ALL.into_iter().rev()) {
        current.save(&path, dialect, Precision::F32).unwrap();
        current = Adapter::load(&path, &base).unwrap();
        same(&original, &current);
    }
    let keys = |dialect| {
        original.save(&path, dialect, Precision::F32).unwrap();
        open(&path).infos().into_iter().map(|info| (info.name, info.shape)).collect::<BTreeMap<_, _>>()
    };
    let comfyui = keys(Dialect::ComfyUi);
    assert_eq!(comfyui.len(), 3 * 20);
    assert_eq!(comfyui["diffusion_model.blocks.1.self_attn.q.lora_A.weight"], [3, 32]);
    assert_eq!(comfyui["diffusion_model.blocks.0.ffn.0.lora_B.weight"], [64, 3]);
    assert_eq!(comfyui["diffusion_model.blocks.0.cross_attn.o.alpha"], [0_usize; 0]);
    // diffusers refuses a file with any key without "lora" in it.
    assert!(keys(Dialect::Diffusers).keys().all(|key| key.contains("lora") && !key.ends_with("alpha")));
    assert_eq!(keys(Dialect::Kohya)["lora_unet_blocks_1_self_attn_o.lora_down.weight"], [3, 32]);
}

#[test]
fn files_of_diffusers_and_peft_load_and_are_written_identically() {
    let folder = tempfile::tempdir().unwrap();
    for (name, rank, alpha) in [("lora_steps_a", 4, 4.0), ("lora_steps_b", 3, 6.0)] {
        let published = golden(name).join("pipeline/pytorch_lora_weights.safetensors");
        for file in ["adapter", "pipeline"] {
            let path = golden(name).join(file).join("pytorch_lora_weights.safetensors");
            let adapter = Adapter::open(&path, &device()).unwrap();
            assert_eq!((adapter.metadata.rank, adapter.metadata.alpha), (rank, alpha), "{name}/{file}");
            assert!(adapter.residuals.values().all(|residual| residual.alpha == alpha));

            let written = folder.path().join("x.safetensors");
            adapter.save(&written, Dialect::Diffusers, Precision::F32).unwrap();
            let [written, published] = [open(&written), open(&published)];
            assert_eq!(written.infos(), published.infos());
            for info in published.infos() {
                assert_eq!(written.values(&info.name).unwrap(), published.values(&info.name).unwrap());
            }
            let peft: serde_json::Value =
                serde_json::from_str(&written.metadata()["lora_adapter_metadata"]).unwrap();
            assert_eq!(peft["transformer.r"], rank);
            assert_eq!(peft["transformer.lora_alpha"], alpha);
            let mut targets = vec!["to_k", "to_out.0", "to_q", "to_v"];
            if name.ends_with('a') {
                targets.splice(0..0, ["ffn.net.0.proj", "ffn.net.2"]);
            }
            assert_eq!(peft["transformer.target_modules"], serde_json::json!(targets));
        }
    }
}

fn run(base: &Base, adapter: Option<&Adapter>, weight: f32, prompt: &str) -> Vec<f32> {
    let mut request = small_request(prompt);
    if let Some(adapter) = adapter {
        request.attached = attached(adapter, weight);
        request.token_embeddings = adapter.token_embeddings();
    }
    values(generate(base, &request, &mut |_| ControlFlow::Continue(())).unwrap().latents)
}

#[test]
fn an_adapter_that_adds_nothing_changes_no_bit() {
    let base = base("wan_pipeline_a");
    let plain = run(&base, None, 1.0, "a red ball");
    assert_eq!(plain, run(&base, Some(&adapter(&base, 0.0)), 1.0, "a red ball"));
    let trained = adapter(&base, 0.1);
    assert_eq!(plain, run(&base, Some(&trained), 0.0, "a red ball"));
    let full = run(&base, Some(&trained), 1.0, "a red ball");
    assert_ne!(plain, full);
    assert_ne!(full, run(&base, Some(&trained), 0.5, "a red ball"));
    assert_ne!(full, run(&base, Some(&trained), 1.0, "a <s> ball"));
}

#[test]
fn adapters_combine_unless_they_share_a_token() {
    let base = base("wan_pipeline_a");
    let one = adapter(&base, 0.1);
    let mut two = adapter(&base, 0.2);
    let message = combine(&[(one.clone(), 1.0), (two.clone(), 0.5)], &base.about).unwrap_err().to_string();
    assert!(message.contains("<s>"), "{message}");
    two.metadata.tokens = vec!["<t>".into()];
    let (attached, embeddings) = combine(&[(one, 1.0), (two, 0.5)], &base.about).unwrap();
    let request =
        Request { attached, token_embeddings: embeddings, ..small_request("a <s> ball and a <t> ball") };
    generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap();
}

#[test]
fn an_adapter_for_another_base_is_refused() {
    let [a, b] = ["wan_pipeline_a", "wan_pipeline_b"].map(base);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.safetensors");
    adapter(&a, 0.1).save(&path, Dialect::ComfyUi, Precision::F32).unwrap();
    let error = Adapter::load(&path, &b).unwrap_err();
    assert!(matches!(error, Error::OtherBase { .. }));
    let message = error.to_string();
    assert!(
        message.contains("mine.safetensors")
            && message.contains(&b.about.identity)
            && !message.contains('\n')
    );

    // A file of another program does not say its base; its shapes do.
    let mut foreign = adapter(&a, 0.1);
    foreign.metadata.base = None;
    let (site, residual) = foreign.residuals.pop_first().unwrap();
    foreign.residuals.insert("blocks.7.attn1.to_q".into(), residual);
    let message = foreign.check(&a.about).unwrap_err().to_string();
    assert!(message.contains("blocks.7.attn1.to_q (no such site)"), "{message}");
    foreign.residuals.remove("blocks.7.attn1.to_q");
    foreign
        .residuals
        .insert(site, Residual { down: random(3, 7, "x"), up: random(9, 3, "y"), alpha: 1.0, kernel: None });
    let message = foreign.check(&a.about).unwrap_err().to_string();
    assert!(message.contains("1 sites do not fit") && message.contains("[9, 7]"), "{message}");
}

/// The one-line error of a file with these tensors.
fn refused(path: &Path, tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> String {
    let named = |(name, shape): &(&str, &[usize])| NamedValues {
        name: (*name).to_owned(),
        shape: shape.to_vec(),
        values: vec![0.5; shape.iter().product()],
    };
    let tensors: Vec<NamedValues> = tensors.iter().map(named).collect();
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    write(path, &tensors, metadata, Precision::F32).unwrap();
    let message = Adapter::open(path, &device()).unwrap_err().to_string();
    assert!(message.contains("x.safetensors") && !message.contains('\n'), "{message}");
    message
}

#[test]
fn every_key_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    const Q: &str = "diffusion_model.blocks.0.self_attn.q";
    let [a, b] = [format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight")];
    let refused = |tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]| refused(&path, tensors, metadata);
    let message = refused(
        &[(&a, &[2, 4]), (&b, &[4, 2]), ("diffusion_model.blocks.0.nope.lora_A.weight", &[2, 4])],
        &[],
    );
    assert!(
        message.contains(
            "1 keys are not understood (--allow-unmatched leaves them out): diffusion_model.blocks.0.nope"
        ),
        "{message}"
    );
    let message = refused(&[(&a, &[2, 4]), (&b, &[4, 2]), (&format!("{Q}.dora_scale"), &[3, 1])], &[]);
    assert!(message.contains("dora_scale") && message.contains("does not fit"), "{message}");
    let message = refused(&[(&a, &[2, 4]), (&format!("{Q}.alpha"), &[])], &[]);
    assert!(message.contains("lack the other half") && message.contains(&a), "{message}");
    let message = refused(
        &[(&a, &[2, 4]), ("transformer.blocks.0.attn1.to_q.lora_A.weight", &[2, 4]), (&b, &[4, 2])],
        &[],
    );
    assert!(message.contains("stand twice"), "{message}");
    let message = refused(&[(&a, &[2, 4]), (&b, &[4, 3])], &[]);
    assert!(message.contains("A has rank 2 and B 3"), "{message}");
    let message = refused(&[(&a, &[2, 4, 3]), (&b, &[4, 2])], &[]);
    assert!(message.contains("[2, 4, 3]"), "{message}");
    let message = refused(&[(&a, &[0, 4]), (&b, &[4, 0])], &[]);
    assert!(message.contains("[0, 4]"), "{message}");
    let message = refused(&[(&a, &[2, 4]), (&b, &[4, 2]), (&format!("{Q}.alpha"), &[2])], &[]);
    assert!(message.contains("not a scalar"), "{message}");
    let message = refused(&[("understudy.token_embeddings", &[1, 2])], &[]);
    assert!(message.contains("1 token rows for 0 tokens"), "{message}");
    let good: [(&str, &[usize]); 2] = [(&a, &[2, 4]), (&b, &[4, 2])];
    for (key, text, part) in [
        ("understudy", "{", "metadata understudy"),
        (
            "understudy",
            r#"{"version":9,"method":"x","rank":2,"alpha":1,"window":{"start":0,"end":1},"sites":1,"created_with":"x"}"#,
            "newer",
        ),
        ("understudy.token_embeddings", "[[1.0, 2.0], [3.0]]", "not of one length"),
        ("understudy.token_embeddings", "[[1.0, 2.0]]", "1 token rows for 0 tokens"),
        (
            "understudy",
            r#"{"version":1,"method":"x","tokens":["<s>"],"rank":2,"alpha":1,"window":{"start":0,"end":1},"sites":1,"created_with":"x"}"#,
            "0 token rows for 1",
        ),
        ("lora_adapter_metadata", "[", "lora_adapter_metadata"),
        ("lora_adapter_metadata", r#"{"use_dora": true}"#, "use_dora"),
    ] {
        let message = refused(&good, &[(key, text)]);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn scales_come_from_scalars_or_metadata_and_never_from_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let alpha = |scalar: bool, metadata: &str| {
        let q = "transformer.blocks.0.attn1.to_q";
        let mut tensors = vec![
            (format!("{q}.lora_A.weight"), vec![4, 8], 32),
            (format!("{q}.lora_B.weight"), vec![8, 4], 32),
        ];
        if scalar {
            tensors.push((format!("{q}.alpha"), vec![], 1));
        }
        let tensors: Vec<NamedValues> = tensors
            .into_iter()
            .map(|(name, shape, count)| NamedValues { name, shape, values: vec![2.0; count] })
            .collect();
        let metadata = BTreeMap::from([("lora_adapter_metadata".to_owned(), metadata.to_owned())]);
        write(&path, &tensors, metadata, Precision::F32).unwrap();
        Adapter::open(&path, &device()).unwrap().residuals["blocks.0.attn1.to_q"].alpha
    };
    assert_eq!(alpha(false, "{}"), 4.0);
    assert_eq!(alpha(true, "{}"), 2.0);
    assert_eq!(alpha(false, r#"{"transformer.lora_alpha": 8}"#), 8.0);
    assert_eq!(alpha(true, r#"{"transformer.lora_alpha": 8}"#), 2.0);
    assert_eq!(alpha(false, r#"{"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 3}}"#), 3.0);
    // alpha / sqrt(r) = 8 / 2, which is 16 / r.
    assert_eq!(alpha(false, r#"{"lora_alpha": 8, "use_rslora": true}"#), 16.0);
}

#[test]
fn damaged_files_are_errors() {
    let base = base("wan_pipeline_a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    adapter(&base, 0.1).save(&path, Dialect::Kohya, Precision::Bf16).unwrap();
    Adapter::load(&path, &base).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Adapter::load(&path, &base).is_err(), "{length} bytes");
    }
    // Any byte of the header may be anything.
    for at in (0..whole.len().min(6000)).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] = damaged[at].wrapping_add(13);
        std::fs::write(&path, damaged).unwrap();
        drop(Adapter::load(&path, &base));
    }
    let mut nan = adapter(&base, 0.1);
    let residual = nan.residuals.get_mut("blocks.0.attn1.to_q").unwrap();
    residual.up = residual.up.clone() * f32::NAN;
    nan.save(&path, Dialect::ComfyUi, Precision::F32).unwrap();
    let message = Adapter::load(&path, &base).unwrap_err().to_string();
    assert!(message.contains("diffusion_model.blocks.0.self_attn.q.lora_B.weight"), "{message}");
    assert!(Adapter::load(&folder.path().join("none"), &base).is_err());

    let unwritable = folder.path().join("no/such/x.safetensors");
    assert!(adapter(&base, 0.1).save(&unwritable, Dialect::ComfyUi, Precision::F32).is_err());
}

#[test]
fn targets_name_sites() {
    let base = base("wan_pipeline_a");
    let sites = base.about.denoiser_sites();
    let count = |text: &str| text.parse::<Targets>().unwrap().resolve(sites).map(|sites| sites.len());
    assert_eq!(sites.maps.len(), 2 * 10 + 7);
    assert_eq!(count("attn").unwrap(), 16);
    assert_eq!(count("attn-ffn").unwrap(), 20);
    assert_eq!(count("self-attn").unwrap(), 8);
    assert_eq!(count("attn1.to_q,ffn.net.2, blocks.0.attn2.to_k").unwrap(), 5);
    assert!(count("blocks.9.attn1.to_q").unwrap_err().to_string().contains("blocks.9.attn1.to_q"));
    assert!("everything".parse::<Targets>().is_err());
}

//! V-Warper on the oracle's tiny base: what it leaves alone, what it changes, and what it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{attached, base, config, go, small_request, subject, values};
use understudy_engine::attach::Window;
use understudy_engine::safetensors::Precision;
use understudy_personalize::{
    Adapter, Dialect, Error, Job, Recipe, VWarper, Warp, WarpConfig, WarpJob, convert,
};
use understudy_pipeline::{Base, Output, Request, generate};

const A: &str = "wan_pipeline_a";

fn adapter(base: &Base) -> Adapter {
    let config = config();
    let subject = subject(config.size);
    let folder = tempfile::tempdir().unwrap();
    let job = Job { base, base_name: "tiny", subject: &subject, others: &[], folder: folder.path() };
    VWarper.fit(&job, &config, None, &mut go).unwrap()
}

fn request(adapter: &Adapter, prompt: &str) -> Request {
    Request {
        attached: attached(adapter, 1.0),
        token_embeddings: adapter.token_embeddings(),
        ..small_request(prompt)
    }
}

fn warp(
    base: &Base,
    adapter: &Adapter,
    request: &mut Request,
    config: WarpConfig,
) -> Result<Arc<Warp>, Error> {
    warp_cached(base, adapter, request, config, None)
}

fn warp_cached(
    base: &Base,
    adapter: &Adapter,
    request: &mut Request,
    config: WarpConfig,
    cache: Option<&Path>,
) -> Result<Arc<Warp>, Error> {
    let [_, frames, rows, columns] =
        base.about.geometry.latents([request.frames, request.height, request.width]).unwrap();
    let job = WarpJob {
        base,
        references: &adapter.references,
        attached: &request.attached,
        embeddings: request.token_embeddings.as_ref(),
        phrase: "<s> ball",
        prompts: &request.prompts,
        latent_size: [frames, rows, columns],
        cache,
    };
    let warp = Warp::new(&job, config)?;
    warp.attach(request.attached.to_mut(base.about.denoiser));
    request.companions.push(warp.clone());
    Ok(warp)
}

fn run(base: &Base, request: &Request) -> Output {
    generate(base, request, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn usual() -> WarpConfig {
    WarpConfig {
        match_block: 0,
        blocks: [0, 2],
        window: Window::ALWAYS,
        foreground: 0.0,
        cycle: 9.0,
        ..WarpConfig::for_depth(2)
    }
}

#[test]
fn nothing_changes_without_a_share_and_much_does_with_one() {
    let base = base(A);
    let adapter = adapter(&base);
    assert_eq!((adapter.metadata.method.as_str(), adapter.references.len()), ("v-warper", 2));
    assert!(adapter.references[0].mask.is_none() && adapter.references[1].mask.is_some());
    let prompts = vec!["a <s> ball".to_owned(), "the <s> ball rolls".to_owned()];
    let plain = Request { prompts, ..request(&adapter, "") };
    let with = |config: WarpConfig| {
        let mut request = plain.clone();
        let warp = warp(&base, &adapter, &mut request, config).unwrap();
        (values(run(&base, &request).latents), warp.matches())
    };
    let expected = values(run(&base, &plain).latents);
    // Where a hook looks at the words, padding is attended to word by word, which rounds otherwise.
    let unmixed = with(WarpConfig { mix: 0.0, ..usual() }).0;
    assert!(unmixed.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4));
    // A window that no step begins in.
    let never = Window { start: 0.99, end: 1.0 };
    assert_eq!(with(WarpConfig { window: never, ..usual() }).0, expected);
    let (warped, matches) = with(usual());
    assert_ne!(warped, expected);
    assert_eq!(matches.len(), 2);
    assert!(matches[0].used.iter().any(|used| *used));
    assert_eq!(with(usual()).0, warped);
}

#[test]
fn what_the_references_show_is_kept_for_other_seeds() {
    let base = base(A);
    let adapter = adapter(&base);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("references.safetensors");
    let with = |prompt: &str, seed: u64, config: WarpConfig, cache: Option<&Path>| {
        let mut request = Request { seed, ..request(&adapter, prompt) };
        let warp = warp_cached(&base, &adapter, &mut request, config, cache).unwrap();
        let latents = values(run(&base, &request).latents);
        warp.save().unwrap();
        latents
    };
    let fresh = with("the <s> ball rolls", 5, usual(), None);
    with("a <s> ball", 4, usual(), Some(&path));
    let kept = std::fs::read(&path).unwrap();
    // Another seed and another prompt read what is kept, bit for bit, and leave it as it is.
    assert_eq!(with("the <s> ball rolls", 5, usual(), Some(&path)), fresh);
    assert_eq!(std::fs::read(&path).unwrap(), kept);
    // Other settings see the references otherwise and take its place.
    let other = WarpConfig { match_block: 1, blocks: [1, 2], ..usual() };
    assert_eq!(with("a <s> ball", 4, other, Some(&path)), with("a <s> ball", 4, other, None));
    assert_ne!(std::fs::read(&path).unwrap(), kept);
    // So does what is damaged.
    std::fs::write(&path, &kept[..kept.len() / 2]).unwrap();
    assert_eq!(with("the <s> ball rolls", 5, usual(), Some(&path)), fresh);
}

#[test]
fn pictures_survive_the_file_in_any_dialect() {
    let base = base(A);
    let adapter = adapter(&base);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for dialect in Dialect::ALL {
        adapter.save(&path("a.safetensors"), dialect, Precision::F32).unwrap();
        convert(
            &path("a.safetensors"),
            &path("b.safetensors"),
            Dialect::Kohya,
            understudy_personalize::Unmatched::Refuse,
        )
        .unwrap();
        for name in ["a.safetensors", "b.safetensors"] {
            let read = Adapter::load(&path(name), &base).unwrap();
            for (own, found) in adapter.references.iter().zip(&read.references) {
                let (own_latents, latents) = (values(own.latents.clone()), values(found.latents.clone()));
                assert!(common::error(&latents, &own_latents) < 4e-3, "{dialect}");
                assert_eq!(own.mask.is_some(), found.mask.is_some());
            }
        }
    }
}

#[test]
fn what_cannot_be_warped_is_said() {
    let base = base(A);
    let adapter = adapter(&base);
    let refused = |request: &mut Request, config| {
        let message = warp(&base, &adapter, request, config).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert!(refused(&mut request(&adapter, "a red cube"), usual()).contains("<s> ball"));
    let mut large = Request { width: 32, ..request(&adapter, "a <s> ball") };
    assert!(refused(&mut large, usual()).contains("16x16"));
    let own = || request(&adapter, "a <s> ball");
    assert!(refused(&mut own(), WarpConfig { match_block: 2, ..usual() }).contains("warp.match_block"));
    assert!(refused(&mut own(), WarpConfig { blocks: [1, 1], ..usual() }).contains("warp.blocks"));
    assert!(refused(&mut own(), WarpConfig { mix: 1.5, ..usual() }).contains("warp.mix"));
}

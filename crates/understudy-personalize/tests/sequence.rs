//! Set-and-Sequence on the oracle's tiny base: what each stage trains, and how the parts come apart again.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Tensor;
use common::{attached, base, config, go, small_request, subject, values};
use understudy_engine::attach::Attached;
use understudy_engine::safetensors::Precision;
use understudy_media::{Image, Video};
use understudy_personalize::{
    Adapter, Basis, Dialect, Error, FitEvent, Job, Learning, Lora, Recipe, SequenceSettings, SetAndSequence,
    Subject, Unmatched, convert,
};
use understudy_pipeline::{Base, PromptOptions, Request, encode_prompt, generate};
use understudy_train::Event;

const A: &str = "wan_pipeline_a";

/// A square that moves to the right, over two clips of five frames.
fn moving(size: [usize; 2]) -> Subject {
    let frame = |at: usize| {
        let inside = |x: usize, y: usize| (at..at + 6).contains(&x) && (4..10).contains(&y);
        Image::from_fn(16, 16, |x, y| if inside(x, y) { [220, 30, 40] } else { [40, 90, (8 * y) as u8] })
    };
    let clip = |from: usize| Video::new((from..from + 5).map(frame).collect(), 8.0).unwrap();
    Subject { pictures: Vec::new(), clips: vec![clip(0), clip(5)], ..subject(size) }
}

fn sequence(basis: Basis) -> SequenceSettings {
    let mut settings = SequenceSettings::published(Learning { clip_frames: 5, ..config() });
    let learning = &mut settings.learning;
    (learning.rank, learning.alpha, learning.basis) = (3, 3.0, basis);
    learning.augmentation.held = 0;
    settings
}

fn fit(base: &Base, subject: &Subject, config: &SequenceSettings, folder: &Path) -> Result<Adapter, Error> {
    SetAndSequence.fit(&Job { base, base_name: "tiny", subject, others: &[], folder }, config, None, &mut go)
}

fn fresh(base: &Base, subject: &Subject, config: &SequenceSettings) -> Adapter {
    fit(base, subject, config, tempfile::tempdir().unwrap().path()).unwrap()
}

/// Every number of an adapter.
fn numbers(adapter: &Adapter) -> Vec<f32> {
    let residuals = adapter.residuals.values();
    let mut all: Vec<f32> =
        residuals.flat_map(|r| [values(r.down.clone()), values(r.up.clone())].concat()).collect();
    all.extend(adapter.motion.values().flat_map(|own| values(own.clone())));
    all.extend(adapter.token_rows.clone().map(values).unwrap());
    all
}

fn halves(adapter: &Adapter) -> Vec<[Vec<f32>; 2]> {
    adapter.residuals.values().map(|own| [values(own.down.clone()), values(own.up.clone())]).collect()
}

#[test]
fn the_motion_is_added_to_coefficients_and_the_looks_stay_as_they_were() {
    let base = base(A);
    for basis in [Basis::Output, Basis::Input] {
        let mut config = sequence(basis);
        // In so few steps half of the coefficients left out would leave some where they are.
        config.motion.dropout = 0.0;
        // The first stage of the method sees the prior's first frames, a fit on pictures its clips.
        config.learning.prior.weight = 0.0;
        let adapter = fresh(&base, &moving(config.learning.size), &config);
        assert_eq!(
            (adapter.metadata.method.as_str(), adapter.metadata.tokens.len()),
            ("set-and-sequence", 2)
        );
        assert_eq!(adapter.motion.len(), adapter.residuals.len());
        for (site, own) in &adapter.motion {
            // It starts at zero, so every one that moved had a gradient.
            assert!(values(own.clone()).iter().all(|x| x.is_finite() && *x != 0.0), "{site}");
        }

        // The first stage is that of pictures alone.
        let frames = moving(config.learning.size)
            .clips
            .iter()
            .flat_map(|clip| clip.frames.clone())
            .collect::<Vec<_>>();
        let still = Subject {
            pictures: frames.iter().map(|frame| frame.into()).collect(),
            clips: Vec::new(),
            ..moving(config.learning.size)
        };
        let folder = tempfile::tempdir().unwrap();
        let job = Job { base: &base, base_name: "tiny", subject: &still, others: &[], folder: folder.path() };
        let looks = Lora.fit(&job, &config.learning, None, &mut go).unwrap();
        assert_eq!(halves(&looks), halves(&adapter.weighed(1.0, 0.0)), "{basis:?}");
        let rows = |adapter: &Adapter| values(adapter.token_rows.clone().unwrap().narrow(0, 0, 1));
        assert_eq!(rows(&looks), rows(&adapter));

        // Both together share the basis.
        let all = adapter.weighed(1.0, 1.0);
        let [kept, changed] = if basis == Basis::Output { [1, 0] } else { [0, 1] };
        for (all, looks) in halves(&all).iter().zip(halves(&looks)) {
            assert_eq!(all[kept], looks[kept]);
            assert_ne!(all[changed], looks[changed]);
        }
        let twice = adapter.weighed(1.0, 2.0);
        let sum = |site: &str, times: f32| {
            let (own, motion) = (&adapter.residuals[site], adapter.motion[site].clone());
            let half = if basis == Basis::Output { &own.down } else { &own.up };
            values(half.clone() + motion * times)
        };
        for (site, residual) in &twice.residuals {
            let half = if basis == Basis::Output { &residual.down } else { &residual.up };
            assert_eq!(values(half.clone()), sum(site, 2.0), "{site}");
        }
    }
}

/// What the denoiser makes of the adapter's own prompt.
fn frames(base: &Base, adapter: &Adapter) -> Vec<f32> {
    let request = Request {
        attached: attached(adapter, 1.0),
        token_embeddings: adapter.token_embeddings(),
        ..small_request("a <s> ball <m>")
    };
    values(generate(base, &request, &mut |_| ControlFlow::Continue(())).unwrap().frames)
}

#[test]
fn a_file_keeps_both_parts_and_gives_each_as_an_ordinary_adapter() {
    let base = base(A);
    let config = sequence(Basis::Output);
    let adapter = fresh(&base, &moving(config.learning.size), &config);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    adapter.save(&path("a.safetensors"), Dialect::ComfyUi, Precision::F32).unwrap();
    let read = Adapter::load(&path("a.safetensors"), &base).unwrap();
    assert_eq!((numbers(&read), read.metadata.clone()), (numbers(&adapter), adapter.metadata.clone()));

    let all = adapter.weighed(1.0, 1.0);
    assert_eq!(frames(&base, &adapter), frames(&base, &all));
    assert_ne!(frames(&base, &adapter), frames(&base, &adapter.weighed(1.0, 0.0)));
    for dialect in Dialect::ALL {
        all.save(&path("b.safetensors"), dialect, Precision::F32).unwrap();
        let read = Adapter::load(&path("b.safetensors"), &base).unwrap();
        assert!(read.motion.is_empty() && read.metadata.motion.is_none());
        assert_eq!(halves(&read), halves(&all), "{dialect}");
    }
    // Other programs have no keys for the parts; converting to the same names keeps them.
    let to = |dialect| convert(&path("a.safetensors"), &path("c.safetensors"), dialect, Unmatched::Refuse);
    assert!(to(Dialect::Kohya).unwrap_err().to_string().contains("--part"));
    to(Dialect::ComfyUi).unwrap();
    assert_eq!(numbers(&Adapter::load(&path("c.safetensors"), &base).unwrap()), numbers(&adapter));
}

#[test]
fn a_stopped_motion_goes_on_as_if_it_never_had() {
    let base = base(A);
    let config = sequence(Basis::Output);
    let subject = moving(config.learning.size);
    let expected = numbers(&fresh(&base, &subject, &config));
    let folder = tempfile::tempdir().unwrap();
    let job = Job { base: &base, base_name: "tiny", subject: &subject, others: &[], folder: folder.path() };
    for (stage, at) in [("lora", 3), ("motion", 2), ("motion", 5)] {
        let mut stop = |event: &FitEvent| match event {
            FitEvent::Stage { stage: found, event: Event::Step { step, .. } }
                if *found == stage && *step == at =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        };
        assert!(matches!(SetAndSequence.fit(&job, &config, None, &mut stop), Err(Error::Stopped { .. })));
    }
    assert_eq!(numbers(&fit(&base, &subject, &config, folder.path()).unwrap()), expected);
}

#[test]
fn the_tokens_have_rows_of_their_own() {
    let base = base(A);
    let config = sequence(Basis::Output);
    let adapter = fresh(&base, &moving(config.learning.size), &config);
    let rows = values(adapter.token_rows.clone().unwrap());
    let (looks, motion) = rows.split_at(rows.len() / 2);
    assert_ne!(looks, motion);
    // Both are learned: where the stages after the token's leave rows alone, the motion's stays where it
    // starts.
    let mut still = config.clone();
    still.learning.token_rate = 0.0;
    let frozen = fresh(&base, &moving(config.learning.size), &still);
    let started = values(frozen.token_rows.clone().unwrap());
    assert_ne!(&started[rows.len() / 2..], motion);
    let embeddings = adapter.token_embeddings().unwrap();
    let state = |prompt: &str| -> Tensor<3> {
        let options = PromptOptions {
            max_sequence_length: Some(24),
            token_embeddings: Some(&embeddings),
            attached: Some(&Attached::none()),
            ..Default::default()
        };
        encode_prompt(&base, &[prompt], options).unwrap().words
    };
    assert_ne!(values(state("a <s> ball <m>")), values(state("a <m> ball <s>")));
}

#[test]
fn what_cannot_teach_a_motion_is_refused() {
    let base = base(A);
    let config = sequence(Basis::Output);
    let folder = tempfile::tempdir().unwrap();
    let refused = |subject: &Subject, config: &SequenceSettings| {
        let message = fit(&base, subject, config, folder.path()).unwrap_err().to_string();
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "{message}");
        message
    };
    assert!(refused(&subject(config.learning.size), &config).contains("no clip"));
    let mut still = moving(config.learning.size);
    for clip in &mut still.clips {
        clip.frames = vec![clip.frames[0].clone(); 5];
    }
    still.clips[1] = still.clips[0].clone();
    assert!(refused(&still, &config).contains("does not move"));
    let mut same = config.clone();
    same.motion.token = "<s>".into();
    assert!(refused(&moving(config.learning.size), &same).contains("motion.token"));
}

#[test]
fn several_subjects_have_tokens_and_rows_of_their_own_on_one_basis() {
    let base = base(A);
    let mut config = sequence(Basis::Output);
    config.motion.stitched = 0.5;
    config.learning.prior.weight = 0.0;
    let one = moving(config.learning.size);
    let other = Subject { token: "<s2>".into(), class: "cube".into(), ..moving(config.learning.size) };
    let folder = tempfile::tempdir().unwrap();
    let fit = |others: &[Subject], folder: &Path| {
        let job = Job { base: &base, base_name: "tiny", subject: &one, others, folder };
        SetAndSequence.fit(&job, &config, None, &mut go)
    };
    let both = fit(std::slice::from_ref(&other), folder.path()).unwrap();
    assert_eq!(both.metadata.tokens, ["<s>", "<s2>", "<m>", "<m2>"]);
    assert_eq!(both.metadata.others[0].class, "cube");
    let rows = values(both.token_rows.clone().unwrap());
    let rows: Vec<&[f32]> = rows.chunks(rows.len() / 4).collect();
    assert!((1..4).all(|index| rows[..index].iter().all(|other| *other != rows[index])));
    // Clips of both side by side are among what it learned from.
    assert!(folder.path().join("stitched.safetensors").exists());
    let path = folder.path().join("a.safetensors");
    both.save(&path, Dialect::ComfyUi, Precision::F32).unwrap();
    let read = Adapter::load(&path, &base).unwrap();
    assert_eq!((numbers(&read), read.metadata), (numbers(&both), both.metadata.clone()));
    let twice = fit(std::slice::from_ref(&one), tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(twice.to_string().contains("two subjects"), "{twice}");
}

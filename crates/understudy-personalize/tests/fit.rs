//! The whole recipe on the oracle's tiny base: it trains, stops, goes on, and leaves an adapter.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use common::{attached, base, config, go, small_request, subject, values};
use understudy_engine::safetensors::Precision;
use understudy_media::Image;
use understudy_personalize::{
    Adapter, Dialect, Error, Evaluation, FitEvent, Job, Judge, Learning, Lora, Recipe, Subject,
};
use understudy_pipeline::{Base, Request, generate};
use understudy_train::Event;

const A: &str = "wan_pipeline_a";

fn fit(base: &Base, subject: &Subject, config: &Learning, folder: &Path) -> Result<Adapter, Error> {
    Lora.fit(&Job { base, base_name: "tiny", subject, others: &[], folder }, config, None, &mut go)
}

/// Every number of an adapter.
fn numbers(adapter: &Adapter) -> Vec<f32> {
    let residuals = adapter.residuals.values();
    let mut all: Vec<f32> =
        residuals.flat_map(|r| [values(r.down.clone()), values(r.up.clone())].concat()).collect();
    all.extend(adapter.token_rows.clone().map(values).unwrap());
    all
}

#[test]
fn everything_that_is_trained_moves_and_the_adapter_can_be_used() {
    let base = base(A);
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.prior.weight = 0.5;
    config.samples.every = 3;
    let subject = subject(config.size);
    let job = Job { base: &base, base_name: "tiny", subject: &subject, others: &[], folder: folder.path() };
    let mut events = Vec::new();
    let adapter = Lora
        .fit(&job, &config, None, &mut |event| {
            events.push(event.clone());
            ControlFlow::Continue(())
        })
        .unwrap();

    assert_eq!(adapter.residuals.len(), 20);
    for (site, residual) in &adapter.residuals {
        assert_eq!(residual.rank(), 3);
        // B starts at zero, so every one that moved had a gradient.
        assert!(values(residual.up.clone()).iter().all(|x| x.is_finite() && *x != 0.0), "{site}");
    }
    let start = understudy_personalize::RowStart::of_class(&base, "ball", 1.5).unwrap();
    let row = values(adapter.token_rows.clone().unwrap());
    assert!(row.iter().zip(values(start.row)).all(|(a, b)| a.is_finite() && *a != b));
    assert_eq!(adapter.metadata.base.as_ref().unwrap().identity, base.about.identity);
    assert_eq!(adapter.metadata.tokens, ["<s>"]);

    let FitEvent::Plan { plan, .. } = &events[0] else { panic!("no plan first") };
    assert_eq!((plan.pictures, plan.sites, plan.stages[1].steps), (2, 20, 6));
    assert!(plan.memory > 0 && plan.seconds > 0.0);
    let samples: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            FitEvent::Stage { stage: "lora", event: Event::Sample { step, path } } => {
                Some((*step, path.is_file()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(samples, [(3, true), (6, true)]);
    assert!(serde_json::to_string(&events[0]).unwrap().starts_with(r#"{"event":"fit","method":"lora""#));

    // What is written is what was trained, and generates the same.
    let path = folder.path().join("a.safetensors");
    adapter.save(&path, Dialect::ComfyUi, Precision::F32).unwrap();
    let loaded = Adapter::load(&path, &base).unwrap();
    assert_eq!(numbers(&loaded), numbers(&adapter));
    let run = |adapter: &Adapter| {
        let request = Request {
            attached: attached(adapter, 1.0),
            token_embeddings: adapter.token_embeddings(),
            ..small_request("a <s> ball")
        };
        values(generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap().frames)
    };
    assert_eq!(run(&adapter), run(&loaded));
}

#[test]
fn a_stopped_run_goes_on_as_if_it_never_had() {
    let base = base(A);
    let mut config = config();
    config.prior.weight = 0.3;
    config.caption_dropout = 0.2;
    let subject = subject(config.size);
    let whole = tempfile::tempdir().unwrap();
    let expected = numbers(&fit(&base, &subject, &config, whole.path()).unwrap());

    // Stopped politely at several places, and killed: a state from the middle put back.
    let stopped = tempfile::tempdir().unwrap();
    let job = Job { base: &base, base_name: "tiny", subject: &subject, others: &[], folder: stopped.path() };
    for (stage, at) in [("prepare", 0), ("prepare", 0), ("token", 3), ("lora", 2), ("lora", 5)] {
        let mut stop = |event: &FitEvent| match event {
            FitEvent::Stage { stage: found, event: Event::Step { step, .. } }
                if *found == stage && *step == at =>
            {
                ControlFlow::Break(())
            }
            FitEvent::Stage { stage: "prepare", .. } if stage == "prepare" => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let error = Lora.fit(&job, &config, None, &mut stop).unwrap_err();
        assert!(matches!(error, Error::Stopped { .. }), "{error}");
    }
    assert_eq!(numbers(&fit(&base, &subject, &config, stopped.path()).unwrap()), expected);

    let killed = tempfile::tempdir().unwrap();
    let state = killed.path().join("lora/state.safetensors");
    let mut kept = None;
    let job = Job { base: &base, base_name: "tiny", subject: &subject, others: &[], folder: killed.path() };
    Lora.fit(&job, &config, None, &mut |event| {
        if let FitEvent::Stage { stage: "lora", event: Event::Step { step: 3, .. } } = event {
            // The checkpoint of step 2 is what a kill now would leave.
            kept = Some(std::fs::read(&state).unwrap());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    std::fs::write(&state, kept.unwrap()).unwrap();
    assert_eq!(numbers(&fit(&base, &subject, &config, killed.path()).unwrap()), expected);
}

/// A judge who has made up his mind: an identity for each evaluation of two videos.
#[derive(Default)]
struct Decided {
    heard: Mutex<Vec<Evaluation>>,
}

const DECIDED: [f64; 3] = [0.1, 0.5, 0.3];

impl Judge for Decided {
    fn text(&self, video: &[Image], prompt: &str) -> Result<f64, String> {
        assert!(video.len() == 5 && prompt.contains("ball") && !prompt.contains("<s>"), "{prompt}");
        Ok(0.6)
    }

    fn identity(&self, _: &[Image]) -> Result<f64, String> {
        Ok(DECIDED[self.heard.lock().unwrap().len()])
    }

    fn hear(&self, evaluation: &Evaluation) {
        self.heard.lock().unwrap().push(*evaluation);
    }
}

#[test]
fn the_best_adapter_is_kept() {
    let base = base(A);
    let mut config = config();
    config.samples.evaluate_every = 2;
    let subject = subject(config.size);
    let folder = tempfile::tempdir().unwrap();
    let job = Job { base: &base, base_name: "tiny", subject: &subject, others: &[], folder: folder.path() };
    let judge = Decided::default();
    let best = Lora.fit(&job, &config, Some(&judge), &mut go).unwrap();
    let heard = judge.heard.lock().unwrap().clone();
    assert_eq!(
        heard.iter().map(|own| (own.step, own.best)).collect::<Vec<_>>(),
        [(2, true), (4, true), (6, false)]
    );
    assert_eq!((heard[1].score, heard[1].base_text), (0.5, 0.6));

    // It is that of step 4, and evaluating changes nothing else.
    let plain = tempfile::tempdir().unwrap();
    let last = fit(&base, &subject, &config, plain.path()).unwrap();
    assert_ne!(numbers(&best), numbers(&last));
    let kept = Adapter::load(&folder.path().join("lora/best-000004.safetensors"), &base).unwrap();
    assert_eq!(numbers(&best), numbers(&kept));
    let states = [folder.path(), plain.path()].map(|folder| {
        let state = common::open(&folder.join("lora/state.safetensors"));
        state.infos().into_iter().filter_map(|info| state.values(&info.name).ok()).collect::<Vec<_>>()
    });
    assert_eq!(states[0], states[1]);
}

#[test]
fn a_run_of_other_settings_is_not_continued() {
    let base = base(A);
    let config = config();
    let subject = subject(config.size);
    let folder = tempfile::tempdir().unwrap();
    fit(&base, &subject, &config, folder.path()).unwrap();
    let message =
        fit(&base, &subject, &Learning { rank: 2, ..config }, folder.path()).unwrap_err().to_string();
    assert!(message.contains("another"), "{message}");
}

#[test]
fn a_frozen_token_keeps_the_class_row_and_replaying_blocks_changes_little() {
    let base = base(A);
    let mut config = config();
    config.token.steps = 0;
    config.token_rate = 0.0;
    let subject = subject(config.size);
    let run = |replay| {
        let folder = tempfile::tempdir().unwrap();
        let config = Learning { replay: Some(replay), ..config.clone() };
        fit(&base, &subject, &config, folder.path()).unwrap()
    };
    let [plain, replayed] = [run(false), run(true)];
    let start = understudy_personalize::RowStart::of_class(&base, "ball", 1.5).unwrap();
    assert_eq!(values(plain.token_rows.clone().unwrap()), values(start.row));
    let error = common::error(&numbers(&replayed), &numbers(&plain));
    assert!(error < 1e-3, "{error}");
}

#[test]
fn the_row_never_grows_past_its_bound() {
    let base = base(A);
    let start = understudy_personalize::RowStart::of_class(&base, "ball", 1.5).unwrap();
    let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let own = length(&values(start.row.clone()));
    let far = start.row.clone() * 50.0;
    assert!((length(&values(start.moved(far, 1.0))) - 1.5 * own).abs() < 1e-4 * own);
    let near = start.row.clone() * 0.0;
    assert_eq!(values(start.moved(near, 1.0)), values(start.row));
}

#[test]
fn what_cannot_be_fitted_is_said_before_anything_starts() {
    let base = base(A);
    let config = config();
    let subject = subject(config.size);
    let folder = Path::new("/dev/null/run");
    let refused = |subject: &Subject, config: &Learning| {
        let message = Lora
            .plan(&Job { base: &base, base_name: "tiny", subject, others: &[], folder }, config)
            .unwrap_err()
            .to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert!(refused(&subject, &Learning { size: [32, 32], ..config.clone() }).contains("size"));
    let odd = Subject { size: [12, 16], ..subject.clone() };
    assert!(refused(&odd, &Learning { size: [12, 16], ..config.clone() }).contains("use 8 or 16"));
    assert!(refused(&subject, &Learning { rank: 0, ..config.clone() }).contains("rank"));
    let mut long = subject.clone();
    long.pictures[0].caption = Some("a ".repeat(40));
    assert!(refused(&long, &config).contains("limit is 24"));
    let mut none = subject.clone();
    none.pictures.clear();
    assert!(refused(&none, &config).contains("no picture"));
    let error = fit(&base, &subject, &config, folder).unwrap_err().to_string();
    assert!(error.contains("/dev/null/run"), "{error}");
}

//! Rendering events: as lines for people, or as JSON lines for programs.

use std::ops::ControlFlow;

use understudy_train::Event;

/// Where events go.
pub struct Progress {
    json: bool,
}

impl Progress {
    /// A renderer; `json` prints every event as one JSON object a line on stdout.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Renders one event of a training.
    pub fn training(&mut self, event: &Event) -> ControlFlow<()> {
        if self.json {
            if let Ok(line) = serde_json::to_string(event) {
                println!("{line}");
            }
            return ControlFlow::Continue(());
        }
        match event {
            Event::Plan { name, parameters, from, to } => {
                eprintln!("{name}: {parameters} parameters, steps {from} to {to}");
            }
            Event::Prepare { what, done, total } => {
                if done.is_multiple_of(256) || done == total {
                    eprintln!("{done}/{total} {what}");
                }
            }
            Event::Step { step, total, loss, seconds, metrics, .. } => {
                if step.is_multiple_of(10) || step == total {
                    let metrics: Vec<String> =
                        metrics.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
                    eprintln!("{step}/{total} loss {loss:.4} {} ({seconds:.2} s)", metrics.join(" "));
                }
            }
            Event::Sample { path, .. } => eprintln!("samples: {}", path.display()),
            Event::Checkpoint { .. } => {}
            Event::Done { path, .. } => eprintln!("done: {}", path.display()),
        }
        ControlFlow::Continue(())
    }
}

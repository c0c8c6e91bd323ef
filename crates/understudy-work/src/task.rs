//! Any task, as a service asks for it.

use anyhow::Result;
use serde_json::Value;

use crate::context::Context;
use crate::convert::Convert;
use crate::demo::Demo;
use crate::evaluate::Evaluate;
use crate::fit::Fit;
use crate::generate::Generate;
use crate::named::Named;
use crate::place::{Place, Placed};
use crate::pretrain::Pretrain;
use crate::pull::Pull;
use crate::usage::WrongUsage;

/// Any task.
#[derive(Debug)]
pub enum Task {
    /// An adapter in other names.
    Convert(Convert),
    /// The bundled subject, before and after.
    Demo(Demo),
    /// Scores.
    Evaluate(Box<Evaluate>),
    /// An adapter from pictures or a clip.
    Fit(Box<Fit>),
    /// Videos from prompts.
    Generate(Box<Generate>),
    /// The embedded base and its judges.
    Pretrain(Pretrain),
    /// Weights from a hub.
    Pull(Pull),
}

impl Task {
    /// The task of that name with these fields, and where to do it.
    ///
    /// # Errors
    /// When there is none, or a field is wrong.
    pub fn from_json(name: &str, fields: &Value) -> Result<(Self, Place)> {
        match name {
            Convert::NAME => read(fields, Self::Convert),
            Demo::NAME => read(fields, Self::Demo),
            Evaluate::NAME => read(fields, |task| Self::Evaluate(Box::new(task))),
            Fit::NAME => read(fields, |task| Self::Fit(Box::new(task))),
            Generate::NAME => read(fields, |task| Self::Generate(Box::new(task))),
            Pretrain::NAME => read(fields, Self::Pretrain),
            Pull::NAME => read(fields, Self::Pull),
            _ => {
                let reason = format!(
                    "there is no task {name:?}; use convert, demo, evaluate, fit, generate, pretrain or pull"
                );
                Err(WrongUsage(reason).into())
            }
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// What went wrong, in one line that names the flag or the file.
    pub fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Convert(task) => task.run(context),
            Self::Demo(task) => task.run(context),
            Self::Evaluate(task) => task.run(context),
            Self::Fit(task) => task.run(context),
            Self::Generate(task) => task.run(context),
            Self::Pretrain(task) => task.run(context),
            Self::Pull(task) => task.run(context),
        }
    }
}

fn read<T: Named>(fields: &Value, task: impl FnOnce(T) -> Task) -> Result<(Task, Place)> {
    let placed = Placed::from_json(fields)?;
    Ok((task(placed.task), placed.place))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::place::Dtype;

    #[test]
    fn tasks_are_asked_for_by_name() {
        let fields = json!({"repository": "a/b", "file": ["*.json"], "dtype": "bf16"});
        let (task, place) = Task::from_json("pull", &fields).unwrap();
        assert!(matches!(task, Task::Pull(_)) && place.dtype == Some(Dtype::Bf16));
        let error = Task::from_json("dance", &json!({})).unwrap_err();
        assert!(crate::is_usage(&error) && error.to_string().contains("dance"));
    }
}

//! How a piece of work is asked for.
//!
//! A task is described once, by its flags. Words are read as a shell would hand them over; JSON by the same
//! names: `{"prompt": ["a cat", "a dog"], "negative-prompt": "", "merge": true}`. So what is allowed, what
//! goes together and what is usual stands in one place, and is said in the same words everywhere.

use std::ffi::OsString;

use anyhow::Result;
use clap::{Arg, Args, Command, FromArgMatches};
use serde_json::Value;

use crate::usage::{WrongUsage, without_usage};

/// What can be asked for by name.
pub trait Named: Args + FromArgMatches {
    /// The name.
    const NAME: &'static str;

    /// Reads the flags `words`; of a flag that may stand once, the last counts.
    ///
    /// # Errors
    /// Says which word is wrong.
    fn from_words(words: &[OsString]) -> Result<Self> {
        let command = Self::augment_args(Command::new(Self::NAME).no_binary_name(true))
            .mut_args(|argument| argument.allow_negative_numbers(true))
            .args_override_self(true);
        let matches = command.try_get_matches_from(words).map_err(|error| wrong(Self::NAME, &error))?;
        Self::from_arg_matches(&matches).map_err(|error| wrong(Self::NAME, &error))
    }

    /// Reads an object of flags.
    ///
    /// # Errors
    /// Says which field is wrong.
    fn from_json(fields: &Value) -> Result<Self> {
        Self::from_words(&words(&Self::augment_args(Command::new(Self::NAME)), fields)?)
    }
}

/// An object of fields as a shell's words for `command`.
fn words(command: &Command, fields: &Value) -> Result<Vec<OsString>> {
    let Value::Object(fields) = fields else {
        return Err(WrongUsage("fields: write an object of the task's flags".to_owned()).into());
    };
    let mut words = Vec::new();
    let mut positional = vec![OsString::from("--")];
    for (name, value) in fields {
        let Some(argument) = command.get_arguments().find(|argument| is_called(argument, name)) else {
            return Err(WrongUsage(format!("{name}: {} has no such field", command.get_name())).into());
        };
        for value in texts(name, value)? {
            match (argument.get_long(), value) {
                (None, Some(value)) => positional.push(value.into()),
                (None, None) => {}
                (Some(flag), Some(value)) if argument.get_action().takes_values() => {
                    words.push(format!("--{flag}={value}").into());
                }
                (Some(flag), None) if !argument.get_action().takes_values() => {
                    words.push(format!("--{flag}").into());
                }
                _ => return Err(WrongUsage(format!("{name}: {}", wanted(argument))).into()),
            }
        }
    }
    if positional.len() > 1 {
        words.extend(positional);
    }
    Ok(words)
}

fn is_called(argument: &Arg, name: &str) -> bool {
    let flag = name.replace('_', "-");
    match argument.get_long() {
        Some(long) => long == flag || argument.get_all_aliases().is_some_and(|all| all.contains(&&*flag)),
        None => argument.get_id().as_str() == name,
    }
}

/// What an argument's field is to be.
fn wanted(argument: &Arg) -> &'static str {
    if argument.get_action().takes_values() { "must be a text or a number" } else { "must be true or false" }
}

/// The values of a field: nothing stands for a flag alone.
fn texts(name: &str, value: &Value) -> Result<Vec<Option<String>>> {
    Ok(match value {
        Value::Null | Value::Bool(false) => Vec::new(),
        Value::Bool(true) => vec![None],
        Value::String(text) => vec![Some(text.clone())],
        Value::Number(number) => vec![Some(number.to_string())],
        Value::Array(all) => {
            let all: Result<Vec<_>> = all.iter().map(|value| texts(name, value)).collect();
            all?.concat()
        }
        Value::Object(_) => {
            return Err(WrongUsage(format!("{name}: must be a text, a number or a list of these")).into());
        }
    })
}

/// What clap says of the flags of `name`.
fn wrong(name: &str, error: &clap::Error) -> anyhow::Error {
    let line = without_usage(&error.render().to_string());
    WrongUsage(format!("{name}: {}", line.strip_prefix("error: ").unwrap_or(&line))).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::convert::Convert;
    use crate::generate::Generate;

    fn read(fields: Value) -> String {
        match Generate::from_json(&fields) {
            Ok(task) => format!("{task:?}"),
            Err(error) => panic!("{error:#}"),
        }
    }

    #[test]
    fn json_is_read_by_the_names_of_flags() {
        let fields = json!({
            "prompt": ["-a cat", "a dog"], "out": "x.mp4", "negative_prompt": "no", "steps": 3, "guidance": 1.5,
            "seed": 7, "merge": true, "resume": false, "width": null, "adapter": ["a.safetensors:0.5"],
        });
        let words =
            ["--prompt=-a cat", "--prompt=a dog", "--out=x.mp4", "--negative-prompt", "no", "--steps"];
        let words = words.into_iter().chain(["3", "--guidance", "1.5", "--seed", "7", "--merge"]);
        let words: Vec<OsString> =
            words.chain(["--adapter", "a.safetensors:0.5"]).map(OsString::from).collect();
        assert_eq!(read(fields), format!("{:?}", Generate::from_words(&words).unwrap()));
    }

    #[test]
    fn arguments_without_a_flag_have_names_too() {
        let task =
            Convert::from_json(&json!({"path": "-a.safetensors", "to": "kohya", "out": "b.safetensors"}));
        assert!(format!("{:?}", task.unwrap()).contains("-a.safetensors"));
    }

    #[test]
    fn faults_name_the_field_on_one_line() {
        for (fields, name) in [
            (json!({"prompt": "a", "out": "x.mp4", "stepps": 3}), "stepps"),
            (json!({"prompt": "a", "out": "x.mp4", "steps": "many"}), "--steps"),
            (json!({"prompt": "a", "out": "x.mp4", "steps": true}), "steps"),
            (json!({"prompt": "a", "out": "x.mp4", "merge": "yes"}), "merge"),
            (json!({"prompt": {"text": "a"}, "out": "x.mp4"}), "prompt"),
            (json!({"prompt": "a"}), "--out"),
            (json!(["prompt"]), "fields"),
        ] {
            let error = Generate::from_json(&fields).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains(name) && !message.contains('\n'), "{fields}: {message}");
            assert!(crate::is_usage(&error));
        }
    }
}

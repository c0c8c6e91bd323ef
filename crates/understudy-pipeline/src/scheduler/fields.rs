//! Fields of a published configuration, and what is wrong with them.

use serde_json::{Map, Value};

/// What was read, or which field is wrong and how.
pub(super) type Read<T> = Result<T, String>;

/// The fields of a configuration. One that is absent has the value that its class gives it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl Fields<'_> {
    /// A field that is there and is not null.
    fn stated(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str, absent: bool) -> Read<bool> {
        let stated = self.stated(name).map(Value::as_bool);
        stated.unwrap_or(Some(absent)).ok_or_else(|| format!("{name}: must be true or false"))
    }

    /// A number in a range, if there is one.
    pub(super) fn optional(&self, name: &str, [least, most]: [f64; 2]) -> Read<Option<f64>> {
        let Some(value) = self.stated(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        let number = number.ok_or_else(|| format!("{name}: must be a number from {least} to {most}"));
        number.map(Some)
    }

    /// A number in a range.
    pub(super) fn number(&self, name: &str, absent: f64, range: [f64; 2]) -> Read<f64> {
        Ok(self.optional(name, range)?.unwrap_or(absent))
    }

    /// A whole number in a range.
    pub(super) fn whole(&self, name: &str, absent: usize, [least, most]: [usize; 2]) -> Read<usize> {
        let Some(value) = self.stated(name) else { return Ok(absent) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("{name}: must be a whole number from {least} to {most}"))
    }

    /// One of several words, and what it stands for.
    pub(super) fn word<T: Copy>(&self, name: &str, absent: &str, words: &[(&str, T)]) -> Read<T> {
        let stated = self.stated(name).map_or(Some(absent), Value::as_str);
        let found = words.iter().find(|(word, _)| stated == Some(*word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("{name}: {} is not supported, only {}", self.0[name], known.join(", "))
        })
    }

    /// Numbers in a range, if there are any.
    pub(super) fn list(&self, name: &str, [least, most]: [f64; 2]) -> Read<Option<Vec<f32>>> {
        let Some(value) = self.stated(name) else { return Ok(None) };
        let numbers: Option<Vec<f64>> =
            value.as_array().and_then(|all| all.iter().map(Value::as_f64).collect());
        let numbers =
            numbers.filter(|all| !all.is_empty() && all.iter().all(|own| (least..=most).contains(own)));
        let numbers = numbers.ok_or_else(|| format!("{name}: must be numbers from {least} to {most}"))?;
        Ok(Some(numbers.into_iter().map(|own| own as f32).collect()))
    }

    /// A field that may only say this, if it is there: other mathematics is not implemented.
    pub(super) fn only(&self, name: &str, value: &Value) -> Read<()> {
        match self.0.get(name).filter(|found| *found != value) {
            None => Ok(()),
            Some(found) => Err(format!("{name}: {found} is not supported, only {value}")),
        }
    }
}

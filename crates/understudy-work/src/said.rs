//! Numbers, dates, paths and commands in the words of people.

use std::path::Path;

/// A path as events have it: what of its name is not Unicode is replaced.
pub fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// `1.5 MB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `12 s`, `5 min`, `2.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Now, as a page says it: `30 November 2026, 19:40 UTC`.
pub fn date() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (day, month, year) = (now.day(), now.month(), now.year());
    format!("{day} {month} {year}, {:02}:{:02} UTC", now.hour(), now.minute())
}

/// Arguments as a shell takes them.
pub fn shell(arguments: &[String]) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_=+.,:/@%".contains(letter);
    let quoted = |argument: &String| {
        if argument.chars().all(plain) && !argument.is_empty() {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_where_a_shell_would_read_them_otherwise() {
        let arguments = ["--prompt", "a <s> cat's ball", "-1", "a.mp4", "", "a;b"].map(str::to_owned);
        assert_eq!(shell(&arguments), "--prompt 'a <s> cat'\\''s ball' -1 a.mp4 '' 'a;b'");
    }

    #[test]
    fn numbers_are_easy_to_read() {
        let sizes = [999, 1_500, 999_990, 2_000_000_000].map(size);
        assert_eq!(sizes, ["999 B", "1.5 kB", "1.0 MB", "2.0 GB"]);
        assert_eq!([0.4, 119.0, 121.0, 9000.0].map(duration), ["0 s", "119 s", "2 min", "2.5 h"]);
    }
}

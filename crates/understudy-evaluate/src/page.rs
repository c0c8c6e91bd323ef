//! The page of a suite: claims, means, and the videos of all methods side by side.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::error::Result;
use crate::evaluation::Row;
use crate::metrics::Metric;
use crate::report::{About, escaped, head, image, plot};
use crate::suite::Verdict;
use crate::table::Table;
use crate::videos::Clip;

/// Videos a page shows at most; what is more would make it too large to open.
const SHOWN: usize = 400;

/// The videos of one method and one group of prompts.
#[derive(Clone, Debug)]
pub struct Strip<'a> {
    /// The method.
    pub method: &'a str,
    /// The group of prompts.
    pub group: &'a str,
    /// What the videos were scored by.
    pub metrics: Vec<Metric>,
    /// Their scores.
    pub rows: &'a [Row],
    /// The videos.
    pub clips: &'a [Clip],
}

/// The page: what was found of every claim (its words, its metric, what was measured), means of every
/// method, and the videos with the same subject, prompt and seed side by side.
///
/// # Errors
/// When a thumbnail cannot be made.
pub fn suite_page(
    about: &About,
    strips: &[Strip],
    claims: &[(String, String, Option<Verdict>)],
) -> Result<String> {
    let mut page = head(about);
    page.push_str(&claims_table(claims));
    page.push_str(&means(strips));
    about.notes.iter().for_each(|note| page += &format!("<p>{}</p>", escaped(note)));
    page.push_str(&remarks(strips));
    let mut shown = 0;
    let mut groups: BTreeMap<&str, Vec<&Strip>> = BTreeMap::new();
    strips.iter().for_each(|strip| groups.entry(strip.group).or_default().push(strip));
    for (group, strips) in groups {
        let _ = write!(page, "<h2>{}</h2>", escaped(group));
        for clip in strips[0].clips {
            if shown + strips.len() > SHOWN {
                break;
            }
            shown += strips.len();
            page.push_str(&side_by_side(clip, &strips)?);
        }
    }
    let all: usize = strips.iter().map(|strip| strip.clips.len()).sum();
    if shown < all {
        let _ = write!(page, "<p>{} of {all} videos are shown.</p>", shown);
    }
    Ok(page + "</main></html>\n")
}

/// Videos without a score, and what was noted of others.
fn remarks(strips: &[Strip]) -> String {
    let mut out = String::new();
    for strip in strips {
        for row in strip.rows {
            for remark in row.problems.iter().chain(&row.notes) {
                let video = format!("{}/{}/{}", strip.method, strip.group, row.name);
                let _ = write!(out, "<li>{}: {}</li>", escaped(&video), escaped(remark));
            }
        }
    }
    if out.is_empty() { out } else { format!("<h2>Missing, and noted</h2><ul>{out}</ul>") }
}

fn claims_table(claims: &[(String, String, Option<Verdict>)]) -> String {
    if claims.is_empty() {
        return String::new();
    }
    let mut out = "<h2>Claims</h2><div class=\"sheet\"><table><tr><th>claim<th>metric<th>left<th>right<th>margin<th>95 %<th>standard errors<th>pairs<th></tr>".to_owned();
    for (says, metric, verdict) in claims {
        let _ = match verdict {
            None => write!(
                out,
                "<tr><td class=\"says\">{}<td>{metric}<td colspan=7 class=\"problem\">not measured</tr>",
                escaped(says)
            ),
            Some(own) => write!(
                out,
                "<tr><td class=\"says\">{}<td>{metric}<td>{:.4}<td>{:.4}<td>{:+.4}<td>{:+.4} to {:+.4}<td>{}<td>{}<td>{}</tr>",
                escaped(says),
                own.left,
                own.right,
                own.margin,
                own.interval[0],
                own.interval[1],
                own.errors().map_or_else(|| "no spread".to_owned(), |errors| format!("{errors:.1}")),
                own.pairs,
                if own.holds() { "holds" } else { "<b class=\"problem\">does not hold</b>" }
            ),
        };
    }
    out + "</table></div>"
}

fn means(strips: &[Strip]) -> String {
    let mut out =
        "<h2>Means</h2><div class=\"sheet\"><table><tr><th>prompts<th>method<th>metric<th>mean<th>95 %<th>videos<th></tr>"
            .to_owned();
    for strip in strips {
        let table = Table { metrics: strip.metrics.clone(), rows: strip.rows.to_vec() };
        for (index, metric) in strip.metrics.iter().enumerate() {
            let head = format!("<tr><td>{}<td>{}<td>{metric}", escaped(strip.group), escaped(strip.method));
            let values = table.values(index);
            let _ = match table.mean(index) {
                Some(own) => write!(
                    out,
                    "{head}<td>{:.4}<td>{:.4} to {:.4}<td>{}<td>{}</tr>",
                    own.mean,
                    own.low,
                    own.high,
                    values.len(),
                    plot(&values, own)
                ),
                None => write!(out, "{head}<td colspan=4 class=\"problem\">no video has it</tr>"),
            };
        }
    }
    out + "</table></div>"
}

/// The videos called as `clip` is, of every method.
fn side_by_side(clip: &Clip, strips: &[&Strip]) -> Result<String> {
    let mut out = format!(
        "<h3>{}</h3><div class=\"prompt\">{}</div><div class=\"grid\">",
        escaped(&clip.name),
        escaped(clip.prompt.as_deref().unwrap_or_default())
    );
    for strip in strips {
        let _ = write!(out, "<div class=\"clip\"><b>{}</b><div class=\"pair\">", escaped(strip.method));
        let own = strip.clips.iter().find(|own| own.name == clip.name);
        if let Some(video) = own.and_then(|own| own.video().ok()) {
            let _ = write!(out, "<figure>{}</figure>", image(&video)?);
        }
        out.push_str("</div><dl>");
        let row = strip.rows.iter().find(|row| row.name == clip.name);
        for (metric, value) in strip.metrics.iter().zip(row.map_or(&[][..], |row| &row.values)) {
            let _ = match value {
                Some(value) => write!(out, "<dt>{metric}<dd>{value:.4}"),
                None => write!(out, "<dt>{metric}<dd class=\"problem\">missing"),
            };
        }
        out.push_str("</dl></div>");
    }
    Ok(out + "</div>")
}

//! The page of a suite: claims, means, and the videos of all methods side by side.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::error::Result;
use crate::evaluation::Row;
use crate::metrics::Metric;
use crate::report::{About, image, page, plot, score};
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
    let mut groups: BTreeMap<&str, Vec<&Strip>> = BTreeMap::new();
    strips.iter().for_each(|strip| groups.entry(strip.group).or_default().push(strip));
    let all: usize = strips.iter().map(|strip| strip.clips.len()).sum();
    let mut shown = 0;
    let mut sections = Vec::new();
    for (group, strips) in &groups {
        let clips = strips[0].clips.len().min((SHOWN - shown) / strips.len());
        shown += clips * strips.len();
        sections.push((group, strips, &strips[0].clips[..clips]));
    }
    let content = html! {
        (claims_table(claims))
        (means(strips))
        @for note in &about.notes { p { (note) } }
        (remarks(strips))
        @for (group, strips, clips) in sections {
            h2 { (group) }
            @for clip in clips { (side_by_side(clip, strips)?) }
        }
        @if shown < all { p { (shown) " of " (all) " videos are shown." } }
    };
    Ok(page(about, &content))
}

/// Videos without a score, and what was noted of others.
fn remarks(strips: &[Strip]) -> Markup {
    let rows = strips.iter().flat_map(|strip| strip.rows.iter().map(move |row| (strip, row)));
    let remarks = rows.flat_map(|(strip, row)| {
        row.problems.iter().chain(&row.notes).map(move |remark| (strip, &row.name, remark))
    });
    let remarks: Vec<_> = remarks.collect();
    html! {
        @if !remarks.is_empty() {
            h2 { "Missing, and noted" }
            ul {
                @for (strip, name, remark) in remarks {
                    li { (strip.method) "/" (strip.group) "/" (name) ": " (remark) }
                }
            }
        }
    }
}

fn claims_table(claims: &[(String, String, Option<Verdict>)]) -> Markup {
    html! {
        @if !claims.is_empty() {
            h2 { "Claims" }
            div.sheet {
                table {
                    tr {
                        th { "claim" } th { "metric" } th { "left" } th { "right" } th { "margin" } th { "95 %" }
                        th { "standard errors" } th { "pairs" } th {}
                    }
                    @for (says, metric, verdict) in claims {
                        tr {
                            td.says { (says) }
                            td { (metric) }
                            @match verdict {
                                None => td.problem colspan="7" { "not measured" },
                                Some(verdict) => (measured(verdict)),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The cells of what was found of a claim.
fn measured(own: &Verdict) -> Markup {
    let signed = |value: f64| format!("{value:+.4}");
    html! {
        td { (score(own.left)) }
        td { (score(own.right)) }
        td { (signed(own.margin)) }
        td { (signed(own.interval[0])) " to " (signed(own.interval[1])) }
        td { @match own.errors() { Some(errors) => (format_args!("{errors:.1}")), None => "no spread" } }
        td { (own.pairs) }
        td { @if own.holds() { "holds" } @else { b.problem { "does not hold" } } }
    }
}

fn means(strips: &[Strip]) -> Markup {
    html! {
        h2 { "Means" }
        div.sheet {
            table {
                tr {
                    th { "prompts" } th { "method" } th { "metric" } th { "mean" } th { "95 %" } th { "videos" }
                    th {}
                }
                @for strip in strips {
                    @let table = Table { metrics: strip.metrics.clone(), rows: strip.rows.to_vec() };
                    @for (index, metric) in strip.metrics.iter().enumerate() {
                        @let values = table.values(index);
                        tr {
                            td { (strip.group) }
                            td { (strip.method) }
                            td { (metric) }
                            @if let Some(own) = table.mean(index) {
                                td { (score(own.mean)) }
                                td { (score(own.low)) " to " (score(own.high)) }
                                td { (values.len()) }
                                td { (plot(&values, own)) }
                            } @else {
                                td.problem colspan="4" { "no video has it" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The videos called as `clip` is, of every method.
fn side_by_side(clip: &Clip, strips: &[&Strip]) -> Result<Markup> {
    Ok(html! {
        h3 { (clip.name) }
        div.prompt { (clip.prompt.as_deref().unwrap_or_default()) }
        div.grid {
            @for strip in strips {
                @let own = strip.clips.iter().find(|own| own.name == clip.name);
                @let row = strip.rows.iter().find(|row| row.name == clip.name);
                div.clip {
                    b { (strip.method) }
                    div.pair {
                        @if let Some(video) = own.and_then(|own| own.video().ok()) {
                            figure { (image(&video)?) }
                        }
                    }
                    dl {
                        @for (metric, value) in strip.metrics.iter().zip(row.map_or(&[][..], |row| &row.values)) {
                            dt { (metric) }
                            @match value {
                                Some(value) => dd { (score(*value)) },
                                None => dd.problem { "missing" },
                            }
                        }
                    }
                }
            }
        }
    })
}

//! Suites: fits every method on every subject, generates every prompt, scores the videos, and
//! says which claims hold.
//!
//! Everything is in `RESULTS.run` beside the table: `adapters/METHOD/SUBJECT.safetensors`,
//! `videos/METHOD/GROUP/SUBJECT-PROMPT-SEED`, and what was asked for beside them. What is there already is
//! not made again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use understudy_evaluate::{
    Clip, Evaluation, Learns, Method, Metric, PromptGroup, References, Row, Strip, Subjects, Suite, Table,
    Unfinished, Verdict, filled, suite_page,
};
use understudy_files::{seal, unseal};
use understudy_media::Text;
use understudy_media::write_file;
use understudy_personalize::DEFAULT_TOKEN;

use super::made;
use super::puppets;
use super::{Evaluate, Work, about, tell_damage, tell_means};
use crate::context::Context;
use crate::event::Event;
use crate::fit::Fit;
use crate::generate::Generate;
use crate::named::Named;
use crate::outputs::reserve_folder;
use crate::place::Placed;
use crate::said::text;

/// One who is fitted.
pub struct Subject {
    /// The name of its folder.
    pub name: String,
    /// Where its pictures, its clip and its words are.
    pub folder: PathBuf,
    /// What prompts may say of it.
    pub words: BTreeMap<String, String>,
}

impl Subject {
    /// The one in `folder`: its class is in `class.txt`, other words in `words.toml`.
    ///
    /// # Errors
    /// When it says no class or its words cannot be read.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let read = |name: &str| Text::read(folder.join(name)).map(|text| text.content);
        let class =
            read("class.txt").with_context(|| format!("{}: class.txt is missing", folder.display()))?;
        let mut words: BTreeMap<String, String> = if folder.join("words.toml").exists() {
            toml::from_str(&read("words.toml")?)
                .with_context(|| format!("{}: words.toml", folder.display()))?
        } else {
            BTreeMap::new()
        };
        words.insert("class".to_owned(), class.trim().to_owned());
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, folder, words })
    }

    fn class(&self) -> &str {
        self.words.get("class").map_or("", String::as_str)
    }

    /// What a method learns from.
    fn material(&self, learns: Learns) -> PathBuf {
        self.folder.join(match learns {
            Learns::Pictures => "pictures",
            Learns::Clip => "clip.mp4",
        })
    }

    /// `text` with its words, where `{}` is `called`.
    fn prompt(&self, text: &str, called: String, more: &BTreeMap<String, String>) -> Result<String> {
        let mut words = self.words.clone();
        words.extend(more.clone());
        words.insert(String::new(), called);
        filled(text, &words).map_err(|reason| anyhow::anyhow!("subject {}: {reason}", self.name))
    }
}

/// A suite that is run.
struct Run<'a> {
    asked: &'a Evaluate,
    context: &'a Context<'a>,
    suite: Suite,
    /// `RESULTS.run`.
    folder: PathBuf,
    subjects: Vec<Subject>,
}

/// Runs the suite at `path` as `asked`.
///
/// # Errors
/// When the suite is faulty, a method cannot be fitted or used, or nothing could be scored.
pub fn run(asked: &Evaluate, path: &Path, context: &Context) -> Result<()> {
    let (started, short) = (Instant::now(), asked.short);
    let stated = Text::read(path).with_context(|| format!("--suite {}", path.display()))?.content;
    let suite = Suite::parse(&stated)
        .map_err(|reason| anyhow::anyhow!("--suite {}: {reason}; correct it", path.display()))?;
    let suite = if short { suite.shortened() } else { suite };
    let mut name = asked.out.file_name().unwrap_or_default().to_os_string();
    name.push(".run");
    let folder = asked.out.with_file_name(name);
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let _reserved = reserve_folder("--out", &folder)?;
    let mut subjects = subjects(&suite.subjects, path, &folder, context)?;
    if short {
        subjects.truncate(suite.short.subjects.max(1));
    }
    let context = &context.keeping_bases();
    let run = Run { asked, context, suite, folder, subjects };
    for method in &run.suite.methods {
        run.fit(method)?;
        for group in run.suite.prompts.iter().filter(|group| method.makes(&group.name)) {
            run.generate(method, group)?;
        }
    }
    let scores = run.scores()?;
    run.tell(&scores, started)
}

fn subjects(stated: &Subjects, suite: &Path, folder: &Path, context: &Context) -> Result<Vec<Subject>> {
    let folder = match stated {
        Subjects::Folder(name) => suite.parent().unwrap_or(Path::new(".")).join(name),
        Subjects::Puppets { first, count } => {
            let folder = folder.join("subjects");
            puppets::write(&folder, *first, *count, context)?;
            folder
        }
    };
    let entries = fs::read_dir(&folder).with_context(|| format!("subjects {}", folder.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    if folders.is_empty() {
        bail!("subjects {}: there is no folder in it", folder.display())
    } else {
        folders.into_iter().map(Subject::open).collect()
    }
}

/// Scores of one method's videos of one group of prompts.
struct Scores {
    method: usize,
    group: usize,
    rows: Vec<Row>,
    clips: Vec<Clip>,
}

impl Run<'_> {
    /// The folder below `part` of a method.
    fn of(&self, part: &str, method: &str) -> PathBuf {
        self.folder.join(part).join(method.replace(' ', "-"))
    }

    fn adapter(&self, method: &Method, subject: &Subject) -> Option<PathBuf> {
        let owner = method.fit.as_ref().map(|_| &method.name).or(method.like.as_ref())?;
        Some(self.of("adapters", owner).join(format!("{}.safetensors", subject.name)))
    }

    fn fit(&self, method: &Method) -> Result<()> {
        let Some(own) = &method.fit else { return Ok(()) };
        let folder = self.of("adapters", &method.name);
        let stated = words(&format!("{} {own}", self.suite.fit));
        keep(&folder, &stated, self.context)?;
        for subject in &self.subjects {
            let Some(out) = self.adapter(method, subject) else { continue };
            let mut run = out.clone().into_os_string();
            run.push(".run");
            if !made::is_whole(&out, self.context)? {
                let mut words: Vec<OsString> = stated.iter().map(OsString::from).collect();
                let material = subject.material(method.learns);
                let mut add =
                    |flag: &str, value: &OsStr| words.extend([OsString::from(flag), value.to_owned()]);
                add("--subject", material.as_os_str());
                add("--class", OsStr::new(subject.class()));
                add("--out", out.as_os_str());
                words.extend(Path::new(&run).exists().then(|| OsString::from("--resume")));
                let Placed { task, place } = placed::<Fit>(&words)?;
                task.run(&self.context.at(place)?)
                    .with_context(|| format!("fitting {} on {}", method.name, subject.name))?;
                made::keep(&out)?;
            }
            // What is only needed to go on.
            let _ = fs::remove_dir_all(run);
            self.stop_if_asked()?;
        }
        Ok(())
    }

    fn generate(&self, method: &Method, group: &PromptGroup) -> Result<()> {
        let folder = self.of("videos", &method.name).join(&group.name);
        let stated = words(&format!("{} {}", self.suite.generate, method.generate));
        let asked: Vec<String> = method.words.iter().map(|(name, word)| format!("{name}={word}")).collect();
        keep(&folder, &[stated.clone(), asked].concat(), self.context)?;
        for subject in &self.subjects {
            for &seed in &self.suite.seeds {
                self.generate_seed(method, group, (subject, seed), (&folder, &stated))?;
                self.stop_if_asked()?;
            }
        }
        Ok(())
    }

    /// The videos of all prompts of a group for one subject, from one seed on.
    fn generate_seed(
        &self,
        method: &Method,
        group: &PromptGroup,
        (subject, seed): (&Subject, u64),
        (folder, stated): (&Path, &[String]),
    ) -> Result<()> {
        let name = |prompt: usize| folder.join(format!("{}-{seed}-{}", subject.name, prompt + 1));
        let scored =
            group.texts.iter().map(|text| subject.prompt(text, subject.class().to_owned(), &BTreeMap::new()));
        let scored = scored.collect::<Result<Vec<_>>>()?;
        let making = folder.join(".making");
        let _ = fs::remove_dir_all(&making);
        let mut all = true;
        for (prompt, text) in scored.iter().enumerate() {
            let told = fs::read_to_string(name(prompt).with_extension("txt"));
            let whole = made::is_whole(&name(prompt), self.context)?;
            all &= whole && told.is_ok_and(|found| found == *text);
        }
        if all {
            return Ok(());
        }
        let adapter = self.adapter(method, subject);
        let phrase = match &adapter {
            Some(_) => format!("{DEFAULT_TOKEN} {}", subject.class()),
            None => subject.class().to_owned(),
        };
        fs::create_dir_all(&making)?;
        let mut words: Vec<OsString> = stated.iter().map(OsString::from).collect();
        for text in &group.texts {
            let prompt = subject.prompt(text, phrase.clone(), &method.words)?;
            words.extend(["--prompt", &prompt].map(OsString::from));
        }
        let mut add = |flag: &str, value: OsString| words.extend([OsString::from(flag), value]);
        add("--seed", seed.to_string().into());
        add("--out", making.join("v").into());
        if !stated.iter().any(|word| word == "--upscale") {
            // Judges want every pixel once.
            add("--upscale", "1".into());
        }
        if let Some(path) = adapter {
            add("--adapter", path.into());
        }
        let Placed { task, place } = placed::<Generate>(&words)?;
        task.run(&self.context.at(place)?)
            .with_context(|| format!("generating {} of {}", method.name, subject.name))?;
        for (index, text) in scored.iter().enumerate() {
            let made = match group.texts.len() {
                1 => making.join("v"),
                _ => making.join(format!("v-{}", index + 1)),
            };
            made::replace(&made, &name(index))?;
            write_file(name(index).with_extension("txt"), |file| file.write_all(text.as_bytes()))?;
        }
        Ok(fs::remove_dir_all(making)?)
    }

    fn scores(&self) -> Result<Vec<Scores>> {
        let device = &self.context.device;
        let references = match &self.suite.subjects {
            Subjects::Puppets { .. } => References::open(&self.folder.join("references"))?,
            Subjects::Folder(_) => References::open(&self.link_references()?)?,
        };
        let mut scores = Vec::new();
        for (index, group) in self.suite.prompts.iter().enumerate() {
            let metrics = group.metrics().map_err(anyhow::Error::msg)?;
            let networks = self.asked.networks(&metrics, false, device)?;
            let mut evaluation = Some(Evaluation::new(metrics.clone(), networks, Some(references.clone()))?);
            let methods = self.suite.methods.iter().enumerate();
            for (method, own) in methods.filter(|(_, method)| method.makes(&group.name)) {
                let folder = self.of("videos", &own.name).join(&group.name);
                let clips = self.wanted(Clip::list(&folder, self.asked.fps)?);
                let kept = folder.join("scores.csv");
                let unfinished =
                    Unfinished::open(&kept, &format!("{} {:?}", self.asked.stated(), group.metrics))?;
                let Some(own) = evaluation.take() else { continue };
                let mut work = Work {
                    metrics: metrics.clone(),
                    evaluation: own,
                    unfinished,
                    method: Some(self.suite.methods[method].name.clone()),
                    context: self.context,
                };
                tell_damage(&work.unfinished, self.context);
                let rows = work.rows(&clips, true)?;
                evaluation = Some(work.evaluation);
                scores.push(Scores { method, group: index, rows, clips });
            }
        }
        Ok(scores)
    }

    /// Those of `clips` that are of this run: a shorter one may find more.
    fn wanted(&self, clips: Vec<Clip>) -> Vec<Clip> {
        let prompts = self.suite.prompts.iter().map(|group| group.texts.len()).max().unwrap_or(0);
        let ours = |clip: &Clip| {
            let mut parts = clip.name.rsplitn(3, '-');
            let (prompt, seed, subject) = (parts.next(), parts.next(), parts.next());
            let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
            number(prompt).is_some_and(|own| own <= prompts as u64)
                && number(seed).is_some_and(|own| self.suite.seeds.contains(&own))
                && subject.is_some_and(|own| self.subjects.iter().any(|subject| subject.name == own))
        };
        clips.into_iter().filter(ours).collect()
    }

    /// A folder with the pictures of every subject under its name.
    fn link_references(&self) -> Result<PathBuf> {
        let folder = self.folder.join("references");
        for subject in &self.subjects {
            let own = folder.join(&subject.name);
            fs::create_dir_all(&own)?;
            let clip = subject.folder.join("clip.mp4");
            if clip.is_file() {
                copy(&clip, &own.with_extension("mp4"))?;
            }
            let Ok(pictures) = fs::read_dir(subject.folder.join("pictures")) else { continue };
            for picture in pictures.flatten() {
                copy(&picture.path(), &own.join(picture.file_name()))?;
            }
        }
        Ok(folder)
    }

    fn tell(&self, scores: &[Scores], started: Instant) -> Result<()> {
        let table = self.table(scores);
        table.write_csv(&self.asked.out)?;
        for own in scores {
            let (method, group) = (&self.suite.methods[own.method].name, &self.suite.prompts[own.group]);
            let part =
                Table { metrics: group.metrics().map_err(anyhow::Error::msg)?, rows: own.rows.clone() };
            tell_means(&part, (Some(method), Some(&group.name)), self.context);
        }
        let verdicts = self.verdicts(scores);
        for (says, metric, verdict) in &verdicts {
            let (says, metric) = (says.clone(), metric.clone());
            let holds = verdict.is_some_and(|verdict| verdict.holds());
            self.context.tell(&Event::Claim { says, metric, holds, verdict: *verdict });
        }
        if let Some(path) = &self.asked.report {
            let about = about(self.suite.title.clone(), self.asked.stand_ins(&table.metrics));
            let page = suite_page(&about, &self.strips(scores), &verdicts)?;
            write_file(path, |file| file.write_all(page.as_bytes()))?;
        }
        self.asked.stand_ins(&table.metrics).iter().for_each(|note| self.context.note(note));
        if table.rows.iter().all(|row| row.values.iter().all(Option::is_none)) {
            bail!("no video could be scored; {} says nothing", self.asked.out.display());
        }
        let (videos, seconds) = (table.rows.len(), started.elapsed().as_secs_f64());
        self.context.tell(&Event::Evaluated { path: text(&self.asked.out), videos, seconds });
        Ok(())
    }

    fn stop_if_asked(&self) -> Result<()> {
        if self.context.stop.is_asked() {
            bail!("stopped on request; the same command goes on from there");
        }
        Ok(())
    }

    /// All rows, with a column for each metric of any group.
    fn table(&self, scores: &[Scores]) -> Table {
        let of = |group: usize| self.suite.prompts[group].metrics().unwrap_or_default();
        let mut metrics: Vec<Metric> = Vec::new();
        for metric in (0..self.suite.prompts.len()).flat_map(of) {
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
        }
        let mut rows = Vec::new();
        for own in scores {
            let (method, group) = (&self.suite.methods[own.method].name, &self.suite.prompts[own.group].name);
            let columns = of(own.group);
            for row in &own.rows {
                let value = |metric: &Metric| {
                    let column = columns.iter().position(|own| own == metric)?;
                    row.values[column]
                };
                let name = format!("{method}/{group}/{}", row.name);
                let values = metrics.iter().map(value).collect();
                let (problems, notes) = (row.problems.clone(), row.notes.clone());
                rows.push(Row { values, problems, notes, ..Row::new(&name, 0) });
            }
        }
        Table { metrics, rows }
    }

    fn verdicts(&self, scores: &[Scores]) -> Vec<(String, String, Option<Verdict>)> {
        let values = |method: &str, group: &str, metric: &str| -> BTreeMap<String, f64> {
            let own = scores.iter().find(|own| {
                self.suite.methods[own.method].name == method && self.suite.prompts[own.group].name == group
            });
            let Some(own) = own else { return BTreeMap::new() };
            let metrics = self.suite.prompts[own.group].metrics().unwrap_or_default();
            let Some(column) = metrics.iter().position(|own| own.name() == metric.replace('_', "-")) else {
                return BTreeMap::new();
            };
            own.rows.iter().filter_map(|row| Some((row.name.clone(), row.values[column]?))).collect()
        };
        let claims = self.suite.claims.iter().map(|claim| {
            let [left, right] =
                [&claim.left, &claim.right].map(|method| values(method, &claim.group, &claim.metric));
            let pairs: Vec<(usize, f64, f64)> = left
                .iter()
                .filter_map(|(name, value)| {
                    let subject = name.rsplitn(3, '-').nth(2)?;
                    let index = self.subjects.iter().position(|own| own.name == subject)?;
                    Some((index, *value, *right.get(name)?))
                })
                .collect();
            (claim.says.clone(), claim.metric.clone(), claim.verdict(&pairs))
        });
        claims.collect()
    }

    /// The videos of one name by all methods, side by side.
    fn strips<'a>(&'a self, scores: &'a [Scores]) -> Vec<Strip<'a>> {
        let strip = |own: &'a Scores| Strip {
            method: &self.suite.methods[own.method].name,
            group: &self.suite.prompts[own.group].name,
            metrics: self.suite.prompts[own.group].metrics().unwrap_or_default(),
            rows: &own.rows,
            clips: &own.clips,
        };
        scores.iter().map(strip).collect()
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A task by the flags that the suite states; a fault of theirs is one of its file.
fn placed<T: Named>(words: &[OsString]) -> Result<Placed<T>> {
    Placed::from_words(words)
        .map_err(|error| anyhow::anyhow!("the suite's arguments of {error:#}; correct them"))
}

/// Keeps in `folder` what its content is made with. `context` hears of damage.
///
/// # Errors
/// When it was made with something else.
fn keep(folder: &Path, stated: &[String], context: &Context) -> Result<()> {
    let path = folder.join(".made-with");
    let stated = stated.join("\n");
    let found = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        found => Some(found.with_context(|| path.display().to_string())?),
    };
    if let Some(found) = found {
        match unseal(&found) {
            Some(own) if own.trim_end() == stated => return Ok(()),
            // As an earlier version left it.
            None if found == stated.as_bytes() => {}
            // Nobody knows what its content was made with.
            None if found.ends_with(b"\n") => {
                context.note(format!("{} is damaged; {} is made again", path.display(), folder.display()));
                fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            _ => bail!(
                "{}: it was made with other arguments than the suite states now; remove it, or choose another --out",
                folder.display()
            ),
        }
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    Ok(write_file(path, |file| file.write_all(seal(&stated).as_bytes()))?)
}

/// Makes `to` a copy of `from`, whole or not at all; one that is there stays, so that what was scored with it
/// is known.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| from.display().to_string())?;
    match fs::read(to) {
        Ok(found) if found == bytes => Ok(()),
        _ => Ok(write_file(to, |file| file.write_all(&bytes))?),
    }
}

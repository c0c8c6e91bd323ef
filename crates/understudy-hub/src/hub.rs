//! Fetching.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::{Agent, Body, http::Response};

use crate::cache::{self, Cache};
use crate::error::{Error, Result};
use crate::listing::{Entry, Listing, matches};
use crate::repository::Repository;

/// The server used where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";
/// Bytes between two reports.
const CHUNK: usize = 1 << 18;
/// How often it is asked whether to go on while nothing comes, and after how long a server counts as stalled.
const PATIENCE: Duration = Duration::from_secs(1);
const STALLED: Duration = Duration::from_secs(60);

/// A server of repositories and the cache they are fetched into.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: Cache,
    agent: Agent,
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes of all files that are there.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// The status of a range beyond the end of a file.
const NOTHING_THERE: u16 = 416;

type Report<'a> = &'a mut dyn FnMut(Fetch) -> ControlFlow<()>;

impl Hub {
    /// The server at `endpoint`, or else at `HF_ENDPOINT`, or else Hugging Face's own; with the user's token,
    /// if `HF_TOKEN` or a file has one.
    pub fn new(endpoint: Option<&str>, cache: Cache) -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = endpoint.map(str::to_owned).or_else(|| set("HF_ENDPOINT"));
        let beside = cache.folder().parent().map(|home| home.join("token"));
        let places = [cache::set("HF_TOKEN_PATH"), beside, Some(cache::home().join("token"))];
        let stored = || places.into_iter().flatten().find_map(|path| fs::read_to_string(path).ok());
        let token = set("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned());
        let config = Agent::config_builder()
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Large files come from other hosts, which have no business with the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .build();
        Self {
            endpoint: endpoint.unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            token: token.filter(|token| !token.is_empty()),
            cache,
            agent: config.into(),
        }
    }

    /// Fetches what of `repository` at `revision` matches one of `patterns` (everything, if there are none),
    /// and gives the folder it is in. Files that are there are not fetched again.
    ///
    /// # Errors
    /// When the server does not answer or says no, a file does not have its checksum, the cache cannot be
    /// written, or `report` asks to stop.
    pub fn pull(
        &self,
        repository: &Repository,
        revision: &str,
        patterns: &[String],
        report: Report,
    ) -> Result<PathBuf> {
        let listing = self.listing(repository, revision)?;
        let files = chosen(&listing, patterns, repository)?;
        let root = self.cache.repository(repository);
        let snapshot = root.join("snapshots").join(&listing.commit);
        let total = files.iter().map(|entry| entry.size).sum();
        let mut before = 0;
        for entry in files {
            let mut tell = |done: u64| match report(Fetch { file: &entry.name, done: before + done, total }) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Stopped),
            };
            let url =
                format!("{}/{repository}/resolve/{}/{}", self.endpoint, listing.commit, escaped(&entry.name));
            let blob = self.blob(&root, &url, entry, &mut tell)?;
            Cache::link(&snapshot, &entry.name, &blob)?;
            before += entry.size;
        }
        let reference = root.join("refs").join(revision);
        if revision != listing.commit {
            let io = |error| Error::Io { action: "write", path: reference.clone(), error };
            fs::create_dir_all(reference.parent().unwrap_or(&root)).map_err(io)?;
            understudy_files::write_file(&reference, |file| file.write_all(listing.commit.as_bytes()))
                .map_err(io)?;
        }
        Ok(snapshot)
    }

    fn listing(&self, repository: &Repository, revision: &str) -> Result<Listing> {
        let plain = revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        let letters = revision.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.endpoint);
        let fault = |reason: String| Error::Server { url: url.clone(), reason };
        if !plain || !letters {
            return Err(fault(format!("{revision:?} is no revision; give a branch or a commit")));
        }
        let mut response = self.get(&url, 0)?;
        let text = response.body_mut().with_config().limit(1 << 26).read_to_string();
        let text = text.map_err(|error| fault(format!("{error}; try again")))?;
        Listing::read(&text).map_err(fault)
    }

    /// Asks for `url` from byte `start` on.
    fn get(&self, url: &str, start: u64) -> Result<Response<Body>> {
        let fault = |reason: String| Error::Server { url: url.to_owned(), reason };
        let mut request = self.agent.get(url);
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request
            .call()
            .map_err(|error| fault(format!("{error}; check the network, or give --endpoint")))?;
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            // There is nothing from there on; the caller asks again.
            NOTHING_THERE if start > 0 => Ok(response),
            401 | 403 => {
                Err(fault("the server refuses; accept its terms there, and set HF_TOKEN".to_owned()))
            }
            404 => Err(fault("there is no such repository, revision or file; check the names".to_owned())),
            status => Err(fault(format!("the server answers {status}; try again"))),
        }
    }

    /// The blob of `entry`, fetched if it is not there.
    fn blob(
        &self,
        root: &Path,
        url: &str,
        entry: &Entry,
        tell: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = root.join("blobs");
        let blob = folder.join(entry.checksum.hex());
        if blob.metadata().is_ok_and(|found| found.len() == entry.size) {
            tell(entry.size)?;
            return Ok(blob);
        }
        let partial = folder.join(format!("{}.incomplete", entry.checksum.hex()));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |error| Error::Io { action, path, error }
        };
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let mut file =
            OpenOptions::new().create(true).append(true).open(&partial).map_err(io("write", &partial))?;
        let mut there = file.metadata().map_err(io("read", &partial))?.len();
        if there > entry.size {
            file.set_len(0).map_err(io("write", &partial))?;
            there = 0;
        }
        if there < entry.size {
            self.receive(url, entry, &mut file, there, &partial, tell)?;
        }
        file.sync_all().map_err(io("write", &partial))?;
        drop(file);
        let found = entry.checksum.of(&partial)?;
        if found != entry.checksum.hex() {
            let _ = fs::remove_file(&partial);
            let expected = entry.checksum.hex().to_owned();
            return Err(Error::Checksum { file: entry.name.clone(), expected, found });
        }
        fs::rename(&partial, &blob).map_err(io("rename", &partial))?;
        tell(entry.size)?;
        Ok(blob)
    }

    /// Appends to `file`, which has `there` bytes, what is missing.
    fn receive(
        &self,
        url: &str,
        entry: &Entry,
        file: &mut File,
        mut there: u64,
        path: &Path,
        tell: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let write = |error| Error::Io { action: "write", path: path.to_owned(), error };
        let mut response = self.get(url, there)?;
        let status = response.status().as_u16();
        if there > 0 && status != 206 {
            // The server sends the whole file, or does not go on from here.
            file.set_len(0).map_err(write)?;
            there = 0;
        }
        if status == NOTHING_THERE {
            response = self.get(url, 0)?;
        }
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        let chunks = chunks(reader.take(entry.size - there));
        let mut waited = Duration::ZERO;
        while there < entry.size {
            let fault = |reason: String| Error::Server { url: url.to_owned(), reason };
            let chunk = match chunks.recv_timeout(PATIENCE) {
                Ok(chunk) => chunk.map_err(|error| fault(format!("{error}; run it again to go on")))?,
                Err(RecvTimeoutError::Timeout) if waited < STALLED => {
                    waited += PATIENCE;
                    tell(there)?;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = STALLED.as_secs();
                    return Err(fault(format!("nothing came for {seconds} s; run it again to go on")));
                }
                Err(RecvTimeoutError::Disconnected) => Vec::new(),
            };
            if chunk.is_empty() {
                return Err(fault(format!(
                    "it ended after {there} of {} bytes; run it again to go on",
                    entry.size
                )));
            }
            file.write_all(&chunk).map_err(write)?;
            waited = Duration::ZERO;
            there += chunk.len() as u64;
            tell(there)?;
        }
        Ok(())
    }
}

/// What `reader` gives, read on a thread of its own so that whoever waits can stop waiting. An empty chunk,
/// or an error, is the last.
fn chunks(mut reader: impl Read + Send + 'static) -> Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = reader.read(&mut chunk).map(|count| {
                chunk.truncate(count);
                chunk
            });
            let last = !matches!(&read, Ok(chunk) if !chunk.is_empty());
            if sender.send(read).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// The files that match one of `patterns`, each of which must match one.
fn chosen<'a>(listing: &'a Listing, patterns: &[String], repository: &Repository) -> Result<Vec<&'a Entry>> {
    const SOME: usize = 8;
    let unmatched =
        patterns.iter().find(|pattern| !listing.files.iter().any(|entry| matches(pattern, &entry.name)));
    if let Some(pattern) = unmatched {
        let names: Vec<&str> = listing.files.iter().take(SOME).map(|entry| entry.name.as_str()).collect();
        return Err(Error::NoFile {
            repository: repository.to_string(),
            pattern: pattern.clone(),
            names: names.join(", "),
        });
    }
    let wanted =
        |entry: &&Entry| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &entry.name));
    Ok(listing.files.iter().filter(wanted).collect())
}

/// A path as part of a URL.
fn escaped(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
            (byte as char).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(byte).collect()
}

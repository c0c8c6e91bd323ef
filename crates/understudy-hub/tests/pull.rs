//! Against a server on this machine.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use understudy_hub::{Cache, Error, Fetch, Hub, Repository};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does besides serving.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// It closes a file's connection after so many bytes.
    cut: Option<usize>,
    /// It does not know ranges.
    no_ranges: bool,
    /// It sends other bytes than it says.
    corrupt: bool,
    /// Large files are elsewhere.
    redirect: bool,
}

struct Server {
    address: String,
    manner: Arc<Mutex<Manner>>,
    /// Request lines, with the range and whether there was a token.
    log: Arc<Mutex<Vec<String>>>,
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>, bool)> {
    let large: Vec<u8> = (0..700_000_u32).map(|i| ((i * i) >> 7) as u8).collect();
    vec![
        ("model_index.json", b"{}".to_vec(), false),
        ("transformer/weights of it.safetensors", large, true),
        ("empty.txt", Vec::new(), false),
    ]
}

fn listing() -> String {
    let sibling = |(name, content, large): &(&str, Vec<u8>, bool)| {
        let size = content.len();
        let git = hex(Sha1::new_with_prefix(format!("blob {size}\0")).chain_update(content).finalize());
        let lfs = if *large {
            format!(r#", "lfs": {{"sha256": "{}", "size": {size}}}"#, hex(Sha256::digest(content)))
        } else {
            String::new()
        };
        format!(r#"{{"rfilename": "{name}", "size": {size}, "blobId": "{git}"{lfs}}}"#)
    };
    let siblings: Vec<String> = files().iter().map(sibling).collect();
    format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, siblings.join(", "))
}

impl Server {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { address, manner: Arc::new(Mutex::new(manner)), log: Arc::default() };
        let (manner, log, address) = (server.manner.clone(), server.log.clone(), server.address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let manner = *manner.lock().unwrap();
                // A client that goes away is none of the server's business.
                let _ = answer(stream.unwrap(), manner, &log, &address);
            }
        });
        server
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn answer(
    mut stream: TcpStream,
    manner: Manner,
    log: &Mutex<Vec<String>>,
    address: &str,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap()?;
    let (mut start, mut token) = (0, "");
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
        if line.starts_with("authorization: bearer secret") {
            token = " token";
        }
        if line.is_empty() {
            break;
        }
    }
    log.lock().unwrap().push(format!("{request} {start}{token}"));
    let path = request.split(' ').nth(1).unwrap();
    let mut send = |status: &str, headers: &str, body: &[u8], length: usize| -> std::io::Result<()> {
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
        )?;
        stream.write_all(body)
    };
    if path == "/api/models/org/base/revision/main?blobs=true" {
        let listing = listing();
        return send("200 OK", "", listing.as_bytes(), listing.len());
    }
    let name =
        path.strip_prefix(&format!("/org/base/resolve/{COMMIT}/")).or(path.strip_prefix("/elsewhere/"));
    let name = name.map(|name| name.replace("%20", " "));
    let Some((_, content, large)) = files().into_iter().find(|(own, _, _)| Some(*own) == name.as_deref())
    else {
        return send("404 Not Found", "", b"", 0);
    };
    if manner.redirect && large && !path.starts_with("/elsewhere/") {
        // Another host by its name.
        let host = address.replace("127.0.0.1", "localhost");
        let location = format!("Location: {host}/elsewhere/{}\r\n", name.unwrap().replace(' ', "%20"));
        return send("302 Found", &location, b"", 0);
    }
    let start = if manner.no_ranges { 0 } else { start };
    let mut body = content[start..].to_vec();
    if manner.corrupt && large {
        body[100] ^= 1;
    }
    let sent = manner.cut.unwrap_or(body.len()).min(body.len());
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    send(status, "", &body[..sent], body.len())
}

fn pull(server: &Server, cache: &Path, patterns: &[&str]) -> Result<std::path::PathBuf, Error> {
    let hub = Hub::new(Some(&server.address), Cache::new(cache.join("hub")));
    let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    let repository: Repository = "org/base".parse().unwrap();
    let (mut last, mut total) = (0, 0);
    let pulled = hub.pull(&repository, "main", &patterns, &mut |fetch: Fetch| {
        assert!(fetch.done <= fetch.total);
        (last, total) = (fetch.done, fetch.total);
        ControlFlow::Continue(())
    });
    if pulled.is_ok() {
        assert_eq!(last, total);
    }
    pulled
}

fn whole(snapshot: &Path) {
    for (name, content, _) in files() {
        assert!(std::fs::read(snapshot.join(name)).unwrap() == content, "{name}");
    }
}

#[test]
fn a_repository_is_fetched_once_into_the_layout_others_read() {
    let (server, folder) = (Server::start(Manner::default()), tempfile::tempdir().unwrap());
    let snapshot = pull(&server, folder.path(), &[]).unwrap();
    whole(&snapshot);
    let root = folder.path().join("hub/models--org--base");
    assert_eq!(snapshot, root.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read_dir(root.join("blobs")).unwrap().count(), 3);
    #[cfg(unix)]
    {
        let link = std::fs::read_link(snapshot.join("transformer/weights of it.safetensors")).unwrap();
        assert!(link.starts_with("../../../blobs"), "{link:?}");
    }
    // An empty file needs no request. Only the listing is asked for again, and offline nothing is.
    assert_eq!(server.requests().len(), 3);
    pull(&server, folder.path(), &[]).unwrap();
    assert_eq!(server.requests().len(), 1);
    let cache = Cache::new(folder.path().join("hub"));
    let repository: Repository = "org/base".parse().unwrap();
    assert_eq!(cache.snapshot(&repository, "main"), Some(snapshot.clone()));
    assert_eq!(cache.snapshot(&repository, COMMIT), Some(snapshot));
    assert_eq!(cache.snapshot(&repository, "other"), None);
    assert_eq!(cache.snapshot(&repository, "../.."), None);
}

#[test]
fn what_was_interrupted_goes_on() {
    let (server, folder) = (Server::start(Manner::default()), tempfile::tempdir().unwrap());
    for no_ranges in [false, true] {
        let cache = folder.path().join(no_ranges.to_string());
        *server.manner.lock().unwrap() = Manner { cut: Some(300_000), no_ranges, ..Manner::default() };
        let message = pull(&server, &cache, &[]).unwrap_err().to_string();
        assert!(message.contains("run it again to go on"), "{message}");
        let blobs = cache.join("hub/models--org--base/blobs");
        let names = || std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
        assert!(names().any(|path| path.extension().is_some_and(|end| end == "incomplete")));
        server.requests();
        *server.manner.lock().unwrap() = Manner { no_ranges, ..Manner::default() };
        whole(&pull(&server, &cache, &[]).unwrap());
        assert!(server.requests().iter().any(|line| line.ends_with(" 300000")));
        assert!(!names().any(|path| path.extension().is_some()));
    }
}

#[test]
fn wrong_bytes_are_not_kept() {
    let server = Server::start(Manner { corrupt: true, ..Manner::default() });
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&server, folder.path(), &[]).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert!(!folder.path().join("hub/models--org--base/snapshots").join(COMMIT).join("transformer").exists());
    *server.manner.lock().unwrap() = Manner::default();
    whole(&pull(&server, folder.path(), &[]).unwrap());
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let server = Server::start(Manner { redirect: true, ..Manner::default() });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "secret\n").unwrap();
    whole(&pull(&server, folder.path(), &[]).unwrap());
    let requests = server.requests();
    let (elsewhere, own): (Vec<_>, Vec<_>) = requests.iter().partition(|line| line.contains("/elsewhere/"));
    assert!(own.len() == 3 && own.iter().all(|line| line.ends_with("token")), "{own:?}");
    assert!(elsewhere.len() == 1 && !elsewhere[0].ends_with("token"), "{elsewhere:?}");
}

#[test]
fn parts_can_be_asked_for_and_what_is_not_there_is_said() {
    let (server, folder) = (Server::start(Manner::default()), tempfile::tempdir().unwrap());
    let snapshot = pull(&server, folder.path(), &["*.json"]).unwrap();
    assert!(snapshot.join("model_index.json").exists() && !snapshot.join("empty.txt").exists());
    let message = pull(&server, folder.path(), &["*.gguf"]).unwrap_err().to_string();
    assert!(message.contains("*.gguf") && message.contains("model_index.json"), "{message}");

    let hub = Hub::new(Some(&server.address), Cache::new(folder.path()));
    let mut go = |_: Fetch| ControlFlow::Continue(());
    let other: Repository = "org/other".parse().unwrap();
    let message = hub.pull(&other, "main", &[], &mut go).unwrap_err().to_string();
    assert!(message.contains("no such repository"), "{message}");
    let base: Repository = "org/base".parse().unwrap();
    assert!(hub.pull(&base, "../main", &[], &mut go).unwrap_err().to_string().contains("no revision"));
    let stopped = hub.pull(&base, "main", &[], &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(stopped, Error::Stopped));
    let nobody = Hub::new(Some("http://127.0.0.1:9"), Cache::new(folder.path()));
    assert!(nobody.pull(&base, "main", &[], &mut go).unwrap_err().to_string().contains("--endpoint"));
}

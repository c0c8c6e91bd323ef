//! What a server says a repository holds.

use std::path::{Component, Path};

use serde::Deserialize;

use crate::checksum::Checksum;

/// A revision of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// The commit it stands at.
    pub(crate) commit: String,
    pub(crate) files: Vec<Entry>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its path, which stays within the repository.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) checksum: Checksum,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the answer of `api/models/.../revision/...?blobs=true`.
    ///
    /// # Errors
    /// Says what of it is malformed, or leads out of the cache.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let info: Info = serde_json::from_str(text).map_err(|error| format!("the listing: {error}"))?;
        let commit = Checksum::Git(info.sha);
        if !commit.is_plain() {
            return Err(format!("the listing: {:?} is no commit", commit.hex()));
        }
        let files = info.siblings.into_iter().map(Entry::new).collect::<Result<_, _>>()?;
        Ok(Self { commit: commit.hex().to_owned(), files })
    }
}

impl Entry {
    fn new(sibling: Sibling) -> Result<Self, String> {
        let name = sibling.rfilename;
        let within = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !within || name.contains('\\') {
            return Err(format!("the listing: {name:?} is no path within a repository"));
        }
        let (size, checksum) = match (sibling.lfs, sibling.size, sibling.blob_id) {
            (Some(lfs), _, _) => (lfs.size, Checksum::Sha256(lfs.sha256)),
            (None, Some(size), Some(id)) => (size, Checksum::Git(id)),
            _ => return Err(format!("the listing: {name} has no size or no hash")),
        };
        if checksum.is_plain() {
            Ok(Self { name, size, checksum })
        } else {
            Err(format!("the listing: {name}: {:?} is no hash", checksum.hex()))
        }
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    // The star may stand for any beginning of what is left.
    (0..=name.len()).any(|taken| name.is_char_boundary(taken) && matches(rest, &name[taken..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        assert!(
            matches("*", "a/b.json")
                && matches("transformer/*", "transformer/x")
                && matches("*.json", "a/b.json")
        );
        assert!(matches("a*b*c", "a-b-b-c") && matches("a", "a"));
        assert!(!matches("a", "ab") && !matches("*.json", "a.jso") && !matches("vae/*", "v/x"));
    }

    #[test]
    fn a_listing_cannot_lead_out_of_the_cache() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let listing = |name: &str, id: &str| {
            let text = format!(
                r#"{{"sha": "{commit}", "siblings": [{{"rfilename": "{name}", "size": 3, "blobId": "{id}"}}], "x": 1}}"#
            );
            Listing::read(&text)
        };
        let good = listing("a/b.json", commit).unwrap();
        assert_eq!(
            (good.commit.as_str(), good.files[0].name.as_str(), good.files[0].size),
            (commit, "a/b.json", 3)
        );
        for (name, id) in [
            ("../b", commit),
            ("/etc/passwd", commit),
            ("", commit),
            ("a/../../b", commit),
            ("a", "../../x"),
            ("a", "ABC"),
        ] {
            assert!(listing(name, id).is_err(), "{name} {id}");
        }
        assert!(Listing::read("[]").is_err());
        assert!(
            Listing::read(&format!(r#"{{"sha": "{commit}", "siblings": [{{"rfilename": "a"}}]}}"#)).is_err()
        );
    }
}

//! Names of repositories.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A repository of models: `ORGANIZATION/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repository {
    organization: String,
    name: String,
}

impl Repository {
    /// The name of its folder in a cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.organization, self.name)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.organization, self.name)
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fault = |reason| Error::Name { name: text.to_owned(), reason };
        let (organization, name) = text.split_once('/').ok_or_else(|| fault("it has no slash"))?;
        let plain = |part: &str| {
            let letters = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            letters
                && !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        if plain(organization) && plain(name) {
            Ok(Self { organization: organization.to_owned(), name: name.to_owned() })
        } else {
            Err(fault("names have letters, digits, '.', '_' and '-'"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_the_cache() {
        let repository: Repository = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers".parse().unwrap();
        assert_eq!(repository.folder(), "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers");
        assert_eq!(repository.to_string(), "Wan-AI/Wan2.1-T2V-1.3B-Diffusers");
        for bad in ["wan", "", "/", "a/", "../x", "a/..", "a/b/c", "a b/c", "a/.b", "a--b/c"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }
}

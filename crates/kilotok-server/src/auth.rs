//! API keys.

use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// Longest key accepted, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// The keys that are let in, kept as digests.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// Keys from anywhere; blanks around them and empty ones are dropped.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let digests = keys.into_iter().map(str::trim).filter(|key| !key.is_empty()).map(digest);
        Self(digests.collect())
    }

    /// One key per line; lines that start with `#` are comments.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn from_file(path: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Ok(Self::new(text.lines().filter(|line| !line.trim_start().starts_with('#'))))
    }

    /// Adds the keys of another set.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether no key is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the request carries one of the keys, as `Authorization: Bearer`, as the password of
    /// `Authorization: Basic` (what a browser asks its user for) or as `x-api-key`.
    ///
    /// Digests of equal length are compared in constant time, all of them, so the time tells
    /// neither how much of a key was right nor which one it was.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        if self.is_empty() {
            return true;
        }
        let authorization =
            headers.get(AUTHORIZATION).and_then(|value| key(value.to_str().ok()?));
        let given =
            authorization.or_else(|| Some(headers.get("x-api-key")?.to_str().ok()?.to_owned()));
        let Some(given) = given.filter(|key| key.len() <= MAX_KEY_BYTES) else {
            return false;
        };
        let given = digest(given.trim());
        let found = self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        found.into()
    }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

/// The key in an `Authorization` header.
fn key(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    // Names are free; only the password counts.
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::ApiKeys;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn any_of_the_keys_is_let_in_and_nothing_else() {
        let keys = ApiKeys::new(["alpha", " beta \n", ""]);
        assert_eq!(keys.len(), 2);
        assert!(keys.admit(&with("authorization", "Bearer alpha")));
        assert!(keys.admit(&with("authorization", "bearer beta")));
        assert!(keys.admit(&with("x-api-key", "beta")));
        // "me:alpha", ":beta"
        assert!(keys.admit(&with("authorization", "Basic bWU6YWxwaGE=")));
        assert!(keys.admit(&with("authorization", "basic OmJldGE=")));
        for wrong in
            // The last two: "alpha" and "alpha:me".
            [
                "Bearer alph",
                "Bearer alphaa",
                "Bearer ALPHA",
                "Basic alpha",
                "alpha",
                "Bearer ",
                "Basic",
                "Basic YWxwaGE=",
                "Basic YWxwaGE6bWU=",
            ]
        {
            assert!(!keys.admit(&with("authorization", wrong)), "{wrong}");
        }
        assert!(!keys.admit(&HeaderMap::new()));
        assert!(ApiKeys::default().admit(&HeaderMap::new()));
    }
}

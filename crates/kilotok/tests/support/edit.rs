//! Copies of a configuration with one key changed.

use serde_json::Value;

/// `config` with the value at the dotted path `key` replaced.
pub(crate) fn with(mut config: Value, key: &str, value: Value) -> Value {
    let mut at = &mut config;
    for part in key.split('.') {
        at = &mut at[part];
    }
    *at = value;
    config
}

/// `config` without the key at the dotted path `key`.
pub(crate) fn without(mut config: Value, key: &str) -> Value {
    let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
    let mut at = &mut config;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        at = &mut at[part];
    }
    at.as_object_mut().unwrap().remove(last).unwrap();
    config
}

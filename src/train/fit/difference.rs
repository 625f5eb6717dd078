//! Where the settings of two runs differ.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Where two settings first differ: the option's path, and both values.
pub(super) fn difference(then: &Value, now: &Value) -> Option<(String, String, String)> {
    below("", then, now)
}

fn below(path: &str, then: &Value, now: &Value) -> Option<(String, String, String)> {
    let child = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            let keys: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
            let value =
                |of: &Map<String, Value>, key: &str| of.get(key).cloned().unwrap_or_default();
            keys.into_iter()
                .find_map(|key| below(&child(key), &value(then, key), &value(now, key)))
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            let pairs = then.iter().zip(now).enumerate();
            let mut found =
                pairs.map(|(index, (then, now))| below(&child(&index.to_string()), then, now));
            found.find_map(|found| found)
        }
        _ if then == now => None,
        _ => Some((path.to_owned(), then.to_string(), now.to_string())),
    }
}

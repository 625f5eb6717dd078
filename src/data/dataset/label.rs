//! What a member of a WebDataset archive says of its sample's class.

use std::io::{self, Read};

use serde_json::Value;

/// The most bytes that a member with a label may take.
const MAX_LABEL: u64 = 64 << 10;

/// The longest class name, in bytes.
const MAX_NAME: usize = 200;

/// What some editors begin a text with.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// The keys under which JSON has a label, the first that is there.
const KEYS: [&str; 5] = ["label", "cls", "class", "class_id", "class_name"];

/// A class, by number or by name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Label {
    Number(usize),
    Name(String),
}

impl Label {
    /// Reads a `.cls` member: a number such as `3` or `3.0`, a name in one line, or JSON with either. The inner error
    /// is what it holds instead.
    pub(super) fn read(member: &mut impl Read) -> io::Result<Result<Self, String>> {
        let text = text(member)?;
        let plain = text.trim();
        let label = match serde_json::from_str::<Value>(plain) {
            Ok(json) => Self::of_json(&json),
            Err(_) => Self::of_name(plain),
        };
        Ok(label.ok_or_else(|| plain.chars().take(64).collect()))
    }

    /// Reads a `.json` member, if there is a label in it.
    pub(super) fn read_json(member: &mut impl Read) -> io::Result<Option<Self>> {
        let json = serde_json::from_str::<Value>(&text(member)?);
        Ok(match json {
            Ok(Value::Object(object)) => Self::of_json(&Value::Object(object)),
            _ => None,
        })
    }

    fn of_json(json: &Value) -> Option<Self> {
        match json {
            Value::Number(number) => {
                let whole = number.as_u64().or_else(|| {
                    let number = number.as_f64()?;
                    let is_whole = number >= 0.0 && number.fract() == 0.0 && number < 4e9;
                    is_whole.then_some(number as u64)
                });
                whole
                    .and_then(|number| usize::try_from(number).ok())
                    .map(Self::Number)
            }
            Value::String(name) => Self::of_name(name.trim()),
            Value::Object(object) => {
                let value = KEYS.iter().find_map(|key| object.get(*key))?;
                // Not deeper than this.
                (!value.is_object()).then(|| Self::of_json(value)).flatten()
            }
            _ => None,
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let is_plain =
            !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control);
        // JSON and lists that are damaged, and bytes that are no text.
        let is_name =
            !name.starts_with(['{', '[', '<', '-', '+']) && !name.contains(['\u{fffd}', '/']);
        (is_plain && is_name).then(|| Self::Name(name.to_owned()))
    }
}

fn text(member: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    member.take(MAX_LABEL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_start_matches(BYTE_ORDER_MARK).to_owned())
}

//! The pictures a run is trained on, for a resumed one to compare: told apart by their contents, told of in words.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use rayon::prelude::*;

use crate::data::Dataset;
use crate::words::some;

/// How many differences are named.
const NAMED: usize = 5;

/// A line for each picture in the dataset's order: id, label, BLAKE3 hash of its bytes, path below the dataset's root.
pub(super) fn list(dataset: &Dataset) -> String {
    let hashes: Vec<String> = dataset
        .items()
        .par_iter()
        .map(|item| match item.read() {
            Ok(bytes) => blake3::hash(&bytes).to_hex()[..32].to_owned(),
            Err(_) => "unreadable".to_owned(),
        })
        .collect();
    let mut lines = String::new();
    for (item, hash) in dataset.items().iter().zip(hashes) {
        let path = item.path.strip_prefix(dataset.root());
        let path = path.unwrap_or(&item.path).display().to_string();
        // A name may hold anything, a new line too.
        let path = path.escape_debug();
        let _ = writeln!(lines, "{} {} {hash} {path}", item.id, item.label);
    }
    lines
}

/// Whether two lists are the same; otherwise how they differ.
pub(super) fn difference(then: &str, now: &str) -> Option<String> {
    if then == now {
        return None;
    }
    let (before, after) = (by_path(then), by_path(now));
    let mut gone: HashMap<&str, &str> = HashMap::new();
    for (path, (hash, _)) in &before {
        if !after.contains_key(path) {
            gone.insert(hash, path);
        }
    }
    let mut found = Vec::new();
    for (path, (hash, label)) in &after {
        match before.get(path) {
            None => found.push(match gone.remove(hash) {
                Some(old) => format!("`{old}` is now `{path}`"),
                None => format!("`{path}` is new"),
            }),
            Some((old, _)) if old != hash => found.push(format!("`{path}` has other contents")),
            Some((_, old)) if old != label => found.push(format!("`{path}` is of another class")),
            Some(_) => {}
        }
    }
    let mut lost: Vec<String> = gone
        .values()
        .map(|path| format!("`{path}` is gone"))
        .collect();
    lost.sort_unstable();
    found.extend(lost);
    if found.is_empty() {
        return Some("the same pictures in another order".to_owned());
    }
    Some(some(&found, NAMED))
}

/// Hash and label by path.
fn by_path(list: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut pictures = BTreeMap::new();
    for line in list.lines() {
        let mut parts = line.splitn(4, ' ');
        if let (Some(_), Some(label), Some(hash), Some(path)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            pictures.insert(path, (hash, label));
        }
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_in_words() {
        let then = "0 0 aa a/1.jpg\n1 0 bb a/2.jpg\n2 1 cc b/3.jpg\n";
        for (now, words) in [
            (
                "0 0 aa a/1.jpg\n1 0 bb a/2.jpg\n2 1 cc b/3.jpg\n3 1 dd b/4.jpg\n",
                "`b/4.jpg` is new",
            ),
            ("0 0 aa a/1.jpg\n1 1 cc b/3.jpg\n", "`a/2.jpg` is gone"),
            (
                "0 0 aa a/1.jpg\n1 0 ee a/2.jpg\n2 1 cc b/3.jpg\n",
                "`a/2.jpg` has other contents",
            ),
            (
                "0 0 aa a/1.jpg\n1 0 bb a/9.jpg\n2 1 cc b/3.jpg\n",
                "`a/2.jpg` is now `a/9.jpg`",
            ),
            (
                "0 0 aa a/1.jpg\n1 1 bb b/2.jpg\n2 1 cc b/3.jpg\n",
                "`a/2.jpg` is now `b/2.jpg`",
            ),
            (
                "0 1 aa a/1.jpg\n1 0 bb a/2.jpg\n2 1 cc b/3.jpg\n",
                "`a/1.jpg` is of another class",
            ),
            (
                "1 0 bb a/2.jpg\n0 0 aa a/1.jpg\n2 1 cc b/3.jpg\n",
                "another order",
            ),
        ] {
            let told = difference(then, now).unwrap();
            assert!(told.contains(words), "{told} does not say {words}");
        }
        assert_eq!(difference(then, then), None);
        let many: String = (0..9)
            .map(|n| format!("{n} 0 {n}{n} a/{n}.jpg\n"))
            .collect();
        assert!(difference("", &many).unwrap().ends_with("and 4 more"));
    }
}

//! Tar archives → the pictures of one dataset, in the layout of class folders or of WebDataset.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Content, Contents, Kind, Shard, found};
use super::samples;
use super::scan::{
    Found, LeftOut, Problems, Scan, dataset_error, keras_order, lookalike, require_two_classes,
    unwanted_folders, warn_of_splits,
};
use crate::error::{Error, Result};
use crate::words::count;

/// Looks into archives that together are one dataset.
pub(super) fn scan(
    archives: &[impl AsRef<Path>],
    wanted: Option<Vec<String>>,
    left_out: &LeftOut,
) -> Result<Scan> {
    let mut shards: Vec<Shard> = Vec::with_capacity(archives.len());
    for archive in archives {
        let archive: Arc<Path> = Arc::from(archive.as_ref());
        let contents = Contents::read(&archive, left_out)?;
        shards.push((archive, contents));
    }
    let root = match shards.as_slice() {
        [] => return Err(Error::option("archives", "[]", "one archive or more")),
        [(only, _)] => only.to_path_buf(),
        [(first, _), ..] => first.parent().unwrap_or(first).to_owned(),
    };
    let mut problems = Problems::new();
    let mut left_out = Vec::new();
    for (archive, contents) in &mut shards {
        left_out.extend(contents.left_out.drain(..).map(|name| archive.join(name)));
        for (name, reason) in contents.problems.drain(..) {
            problems.insert(member_path(archive, &name), reason.into());
        }
    }
    let mut warnings = Vec::new();
    let layout = if samples::are_samples(&shards) {
        samples::scan(&root, shards, wanted, &mut problems)
    } else {
        class_folders(&root, shards, wanted, &mut problems, &mut warnings)
    };
    let (class_names, mut pictures) = layout.map_err(|error| mention_problems(error, &problems))?;
    let replaced = keep_last_of_each(&mut pictures);
    if pictures.is_empty() {
        let error = dataset_error(
            &root,
            "no pictures of any class: an archive should hold `class/picture.jpg`, or `key.jpg` and `key.cls`",
        );
        return Err(mention_problems(error, &problems));
    }
    warnings.extend(warn_of_splits(&root, &class_names, &pictures));
    if replaced > 0 {
        warnings.push(format!(
            "{}: {} replaced by a later member of the same name, as in unpacking",
            root.display(),
            count(replaced, "picture")
        ));
    }
    Ok(Scan {
        warnings,
        root,
        class_names,
        pictures,
        problems,
        left_out,
    })
}

/// Adds to an error the members that cannot be used: they may be what is missing.
fn mention_problems(error: Error, problems: &Problems) -> Error {
    match (error, problems.iter().next()) {
        (Error::Dataset { path, source }, Some((first, reason))) => {
            let count = problems.len();
            let members = if count == 1 { "member" } else { "members" };
            let first = first.display();
            let told =
                format!("{source}; {count} {members} cannot be used, the first: {first}: {reason}");
            dataset_error(&path, told)
        }
        (error, _) => error,
    }
}

/// A member's path; without a name, the archive's.
pub(super) fn member_path(archive: &Path, name: &str) -> PathBuf {
    if name.is_empty() {
        archive.to_owned()
    } else {
        archive.join(name)
    }
}

/// Class folders, sorted as the unpacked folders would be.
fn class_folders(
    root: &Path,
    shards: Vec<Shard>,
    wanted: Option<Vec<String>>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Result<(Vec<String>, Vec<Found>)> {
    let prefix = common_prefix(&shards, wanted.as_deref());
    let class_of = |name: &str| Some(name.get(prefix..)?.split_once('/')?.0.to_owned());
    let class_names = match wanted {
        Some(wanted) => wanted,
        None => {
            let mut folders = BTreeSet::new();
            let mut outside_classes = 0;
            for name in names(&shards) {
                match class_of(name) {
                    Some(class) => {
                        folders.insert(class);
                    }
                    None => outside_classes += 1,
                }
            }
            let folders = folders.into_iter().collect();
            require_two_classes(root, folders, outside_classes)
                .map_err(|error| mention_labels(root, &shards, error))?
        }
    };
    let labels: HashMap<&str, usize> = class_names.iter().map(String::as_str).zip(0..).collect();
    let mut pictures = Vec::new();
    let mut unwanted = BTreeSet::new();
    for (archive, contents) in shards {
        for Content { name, kind } in contents.members {
            let class = class_of(&name);
            let label = class.as_ref().and_then(|class| labels.get(class.as_str()));
            match (kind, label) {
                (Kind::Picture(member), Some(label)) => {
                    pictures.push(found(&archive, name, member, *label));
                }
                (Kind::Picture(_), None) if class.is_none() => {
                    let reason = "a picture outside the class folders";
                    problems.insert(archive.join(name), reason.into());
                }
                (Kind::Other(reason), Some(_)) => {
                    problems.insert(archive.join(name), reason.into());
                }
                (Kind::Picture(_), None) => unwanted.extend(class),
                // Notes beside the class folders, or in folders that were not asked for.
                _ => {}
            }
        }
    }
    require_no_lookalike(root, &class_names, &pictures, &unwanted)?;
    if !unwanted.is_empty() {
        warnings.push(unwanted_folders(root, unwanted));
    }
    pictures.sort_by(|a, b| (a.label.cmp(&b.label)).then(keras_order(&a.path, &b.path)));
    Ok((class_names, pictures))
}

/// Refuses a class without pictures where a folder that was not asked for has nearly its name.
fn require_no_lookalike(
    root: &Path,
    class_names: &[String],
    pictures: &[Found],
    unwanted: &BTreeSet<String>,
) -> Result<()> {
    let used: BTreeSet<usize> = pictures.iter().map(|picture| picture.label).collect();
    for (label, name) in class_names.iter().enumerate() {
        let hint = lookalike(name, unwanted);
        if !used.contains(&label) && !hint.is_empty() {
            let reason = format!("there is no folder for class `{name}`{hint}");
            return Err(dataset_error(root, reason));
        }
    }
    Ok(())
}

/// Adds to an error that there may be labels of a kind that is not read.
fn mention_labels(root: &Path, shards: &[Shard], error: Error) -> Error {
    let members = || shards.iter().flat_map(|(_, contents)| &contents.members);
    let texts = members()
        .filter(|member| member.name.ends_with(".txt"))
        .count();
    match error {
        Error::Dataset { source, .. } if texts > 0 => dataset_error(
            root,
            format!(
                "{source}; {texts} members end in .txt, which are not taken for labels: WebDataset's are in \
                 `key.cls`, or under `label` in `key.json`"
            ),
        ),
        other => other,
    }
}

/// Of members with one name, the last replaces the others, as in unpacking. They stand side by side, in the
/// archive's order. Says how many were replaced.
fn keep_last_of_each(pictures: &mut Vec<Found>) -> usize {
    let all = pictures.len();
    pictures.dedup_by(|next, kept| {
        let is_same = next.path == kept.path;
        if is_same {
            std::mem::swap(next, kept);
        }
        is_same
    });
    all - pictures.len()
}

/// The length of what stands before the class folders, such as `train/`: the folders that all pictures share, as long
/// as there are folders below and they are none of the wanted classes. A picture that lies beside a folder which all
/// others share, such as a preview, does not count.
fn common_prefix(shards: &[Shard], wanted: Option<&[String]>) -> usize {
    let mut prefix = 0;
    loop {
        let first = names(shards).find_map(|name| name.get(prefix..)?.split_once('/'));
        let Some((shared, _)) = first else {
            return prefix;
        };
        let is_class = wanted.is_some_and(|wanted| wanted.iter().any(|class| class == shared));
        let is_above = |name: &str| {
            let below = name.get(prefix..).and_then(|rest| rest.split_once('/'));
            below.is_none_or(|(folder, below)| folder == shared && below.contains('/'))
        };
        if is_class || !names(shards).all(is_above) {
            return prefix;
        }
        prefix += shared.len() + 1;
    }
}

/// The names of all pictures.
fn names(shards: &[Shard]) -> impl Iterator<Item = &str> {
    let members = shards.iter().flat_map(|(_, contents)| &contents.members);
    members.filter_map(|member| match member.kind {
        Kind::Picture(_) => Some(member.name.as_str()),
        _ => None,
    })
}

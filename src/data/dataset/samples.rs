//! WebDataset's archives: members of one name but for its ending, side by side, are a sample.
//!
//! Labels belong to samples, not to names: shards that were joined have the same names again. A name's key ends at its
//! first dot, as WebDataset has it, but where a picture and a label agree up to their last dot, they belong together
//! too (`0001.v2.jpg`, `0001.v2.cls`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Content, Kind, Shard, found, split_key, split_stem};
use super::item::Member;
use super::label::Label;
use super::scan::{Found, Problems, dataset_error, lookalike, require_two_classes};
use crate::error::{Error, Result};

/// A picture with what its label says, and the label's name.
struct Labelled {
    archive: Arc<Path>,
    name: String,
    member: Member,
    label: Label,
    from: String,
}

/// What stands side by side under one name.
#[derive(Default)]
struct Sample {
    /// The run of members of one key that it is in.
    run: usize,
    stem: String,
    /// Endings that came, in lower case: one that comes again begins another sample.
    endings: HashSet<String>,
    pictures: Vec<(String, Member)>,
    /// The label's name, and what it says.
    label: Option<(String, Result<Label, String>)>,
    others: Vec<(String, String)>,
}

/// Whether archives hold samples and not class folders: some picture, or none that lies in a folder, has a `.cls`
/// beside it, or each has JSON with a label.
pub(super) fn are_samples(shards: &[Shard]) -> bool {
    let members = || shards.iter().flat_map(|(_, contents)| &contents.members);
    let labels = || members().filter(|member| matches!(member.kind, Kind::Label(_)));
    let names = |member: &'_ Content| {
        let name = &member.name;
        [split_key(name).0.to_owned(), split_stem(name).0.to_owned()]
    };
    let pictures = || members().filter(|member| matches!(member.kind, Kind::Picture(_)));
    let numbered: HashSet<String> = labels()
        .filter(|member| is_cls(&member.name))
        .flat_map(names)
        .collect();
    // A stray file of such a name, as TeX has them, does not make samples of class folders.
    if !numbered.is_empty()
        && (pictures().any(|member| names(member).iter().any(|name| numbered.contains(name)))
            || !pictures().any(|member| member.name.contains('/')))
    {
        return true;
    }
    let keys: HashSet<String> = labels().flat_map(names).collect();
    let has_label = |member: &Content| names(member).iter().any(|name| keys.contains(name));
    !keys.is_empty() && pictures().all(has_label)
}

fn is_cls(name: &str) -> bool {
    split_stem(name).1.eq_ignore_ascii_case("cls")
}

/// The class names, and the pictures of samples, in the archives' order.
pub(super) fn scan(
    root: &Path,
    shards: Vec<Shard>,
    wanted: Option<Vec<String>>,
    problems: &mut Problems,
) -> Result<(Vec<String>, Vec<Found>)> {
    let mut named = wanted;
    let mut labelled = Vec::new();
    for (archive, contents) in shards {
        named = named.or(contents.class_names);
        let has =
            |kind: fn(&Kind) -> bool| contents.members.iter().any(|member| kind(&member.kind));
        if has(|kind| matches!(kind, Kind::Picture(_)))
            && !has(|kind| matches!(kind, Kind::Label(_)))
        {
            return Err(dataset_error(
                &archive,
                "no `.cls` beside its pictures, unlike in other archives of the dataset",
            ));
        }
        let mut samples = group(contents.members);
        join_halves(&mut samples);
        for sample in label_by_key(samples) {
            sample.finish(&archive, &mut labelled, problems);
        }
    }
    let are_named = named.is_some();
    let class_names = class_names(root, named, &labelled)?;
    let labels: HashMap<&str, usize> = class_names.iter().map(String::as_str).zip(0..).collect();
    let mut pictures = Vec::new();
    for one in labelled {
        let label = match &one.label {
            Label::Number(number) => Some(*number),
            Label::Name(name) => labels.get(name.as_str()).copied(),
        };
        match label {
            Some(label) => pictures.push(found(&one.archive, one.name, one.member, label)),
            None => {
                let Label::Name(name) = &one.label else {
                    continue;
                };
                let reason = if are_named {
                    let hint = lookalike(name, &class_names);
                    format!(
                        "`{}` holds {name:?}, which is none of the classes{hint}",
                        one.from
                    )
                } else {
                    format!(
                        "`{}` holds {name:?}, and not a class number, 0 or more",
                        one.from
                    )
                };
                problems.insert(one.archive.join(&one.name), reason.into());
            }
        }
    }
    tell_apart(&mut pictures);
    Ok((class_names, pictures))
}

/// Gives pictures of one name names of their own, the second `0001.jpg (2)`: what is known of a picture is known by its
/// path.
fn tell_apart(pictures: &mut [Found]) {
    let mut seen: HashMap<&Path, usize> = HashMap::with_capacity(pictures.len());
    let mut again = Vec::new();
    for (place, picture) in pictures.iter().enumerate() {
        let times = seen.entry(&picture.path).or_insert(0);
        *times += 1;
        if *times > 1 {
            again.push((place, *times));
        }
    }
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut renamed = Vec::with_capacity(again.len());
    for (place, mut times) in again {
        let path = &pictures[place].path;
        let named = |times: usize| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(" ({times})"));
            PathBuf::from(name)
        };
        while seen.contains_key(named(times).as_path()) || taken.contains(&named(times)) {
            times += 1;
        }
        taken.insert(named(times));
        renamed.push((place, named(times)));
    }
    for (place, path) in renamed {
        pictures[place].path = path;
    }
}

/// The samples of an archive.
fn group(members: Vec<Content>) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    // Of the present run: places of samples by name.
    let mut present: HashMap<String, usize> = HashMap::new();
    let (mut run, mut key) = (0, String::new());
    for Content { name, kind } in members {
        if split_key(&name).0 != key {
            key = split_key(&name).0.to_owned();
            run += 1;
            present.clear();
        }
        let (stem, ending) = split_stem(&name);
        let ending = ending.to_lowercase();
        let place = match present.get(stem) {
            Some(place) if !samples[*place].endings.contains(&ending) => *place,
            _ => {
                present.insert(stem.to_owned(), samples.len());
                samples.push(Sample {
                    run,
                    stem: stem.to_owned(),
                    ..Sample::default()
                });
                samples.len() - 1
            }
        };
        let sample = &mut samples[place];
        sample.endings.insert(ending);
        match kind {
            Kind::Picture(member) => sample.pictures.push((name, member)),
            // Of two labels, `.cls` counts.
            Kind::Label(label) if sample.label.is_none() || is_cls(&name) => {
                sample.label = Some((name, label));
            }
            Kind::Label(_) => {}
            Kind::Other(reason) => sample.others.push((name, reason)),
        }
    }
    samples
}

/// Joins pictures and labels of one name that do not stand side by side, as in archives of a folder that was not
/// sorted: only where the name is one picture's and one label's.
fn join_halves(samples: &mut [Sample]) {
    let mut pictures: HashMap<String, Vec<usize>> = HashMap::new();
    let mut labels: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, sample) in samples.iter().enumerate() {
        let halves = match (&sample.label, sample.pictures.is_empty()) {
            (None, false) => &mut pictures,
            (Some(_), true) => &mut labels,
            _ => continue,
        };
        halves.entry(sample.stem.clone()).or_default().push(place);
    }
    for (stem, places) in pictures {
        if let ([picture], Some([label])) =
            (places.as_slice(), labels.get(&stem).map(Vec::as_slice))
        {
            samples[*picture].label = samples[*label].label.take();
        }
    }
}

/// Gives pictures without a label the one of their key: `0001.image.jpg` that of `0001.cls`, unless there is a picture
/// `0001.jpg`, to which it belongs and of which the other is only a mask or the like.
fn label_by_key(mut samples: Vec<Sample>) -> Vec<Sample> {
    let mut by_key: HashMap<(usize, String), usize> = HashMap::new();
    for (place, sample) in samples.iter().enumerate() {
        if sample.label.is_some() && split_key(&sample.stem).0 == sample.stem {
            by_key.insert((sample.run, sample.stem.clone()), place);
        }
    }
    let mut given = HashSet::new();
    for place in 0..samples.len() {
        let sample = &samples[place];
        let key = split_key(&sample.stem).0;
        if sample.label.is_some() || sample.pictures.is_empty() || key == sample.stem {
            continue;
        }
        let Some(owner) = by_key.get(&(sample.run, key.to_owned())).copied() else {
            continue;
        };
        if samples[owner].pictures.is_empty() {
            let label = samples[owner].label.clone();
            samples[place].label = label;
            given.insert(owner);
        } else {
            samples[place].pictures.clear();
        }
    }
    for owner in given {
        samples[owner].label = None;
    }
    samples
}

impl Sample {
    /// Adds the sample's pictures, or says why there are none.
    fn finish(self, archive: &Arc<Path>, labelled: &mut Vec<Labelled>, problems: &mut Problems) {
        let Some((from, label)) = self.label else {
            for (name, _) in self.pictures {
                let reason = format!("`{}.cls`, with its class number, is missing", self.stem);
                problems.insert(archive.join(name), reason.into());
            }
            return;
        };
        if self.pictures.is_empty() {
            // What may have been meant for its picture: notes are not.
            let mut unread = self
                .others
                .iter()
                .filter(|(_, reason)| !reason.starts_with("text"));
            let (name, reason) = match unread.next() {
                Some((name, reason)) => (name.as_str(), reason.clone()),
                None => (from.as_str(), "a label without a picture".into()),
            };
            problems.insert(archive.join(name), reason.into());
            return;
        }
        for (name, member) in self.pictures {
            match &label {
                Ok(label) => labelled.push(Labelled {
                    archive: archive.clone(),
                    name,
                    member,
                    label: label.clone(),
                    from: from.clone(),
                }),
                Err(holds) => {
                    let reason =
                        format!("`{from}` holds {holds:?}, and not a class number, 0 or more");
                    problems.insert(archive.join(name), reason.into());
                }
            }
        }
    }
}

/// The class names: those given, or the numbers, or else the names that labels have, sorted.
fn class_names(
    root: &Path,
    named: Option<Vec<String>>,
    labelled: &[Labelled],
) -> Result<Vec<String>> {
    let numbers = labelled.iter().filter_map(|one| match one.label {
        Label::Number(number) => Some(number),
        Label::Name(_) => None,
    });
    let numbers: BTreeSet<usize> = numbers.collect();
    let highest = numbers.last().copied();
    match (named, highest) {
        (Some(named), Some(highest)) if highest >= named.len() => Err(Error::mismatch(
            format!("class names for {}", root.display()),
            format!("{}, the first for class number 0", named.len()),
            format!("one for class number {highest} too"),
        )),
        (Some(named), _) => Ok(named),
        (None, Some(highest)) => {
            if let Some(empty) = (0..=highest).find(|label| !numbers.contains(label)) {
                return Err(dataset_error(
                    root,
                    format!("no picture is of class {empty}: name the classes if this is so"),
                ));
            }
            let names = numbers.iter().map(ToString::to_string).collect();
            require_two_classes(root, names, 0)
        }
        (None, None) => {
            let names = labelled.iter().filter_map(|one| match &one.label {
                Label::Name(name) => Some(name.as_str()),
                Label::Number(_) => None,
            });
            let names: BTreeSet<&str> = names.collect();
            if names.is_empty() {
                return Ok(Vec::new());
            }
            let names = names.into_iter().map(ToOwned::to_owned).collect();
            require_two_classes(root, names, 0)
        }
    }
}

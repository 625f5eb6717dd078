//! Folders and archives with the habits of people and tools: each file in them is a picture that is read, a problem,
//! left out by a documented name, a label, or a note beside the pictures. Nothing is unaccounted for.
//!
//! `docs/PICTURES.md` has the table that is made here. Sets of others: `HEADSTART_SETS=folder cargo test --test data
//! sets_of_others -- --ignored --nocapture`, each folder or archive in it a set.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use headstart::Dataset;
use headstart::data::{Loader, decode_bytes};

use crate::makers::{Made, sets};

/// What became of the files of a set.
#[derive(Default)]
struct Counts {
    files: usize,
    pictures: usize,
    problems: usize,
    left_out: usize,
    labels: usize,
    /// Neither pictures nor in a class folder, or beside a sample's picture.
    beside: usize,
    /// Of a name that comes again in an archive of class folders, which a warning tells.
    replaced: usize,
    /// Problems of no file: of the archive, or of a folder.
    others: usize,
    unaccounted: Vec<PathBuf>,
    /// Why the whole set was refused.
    refused: Option<String>,
}

/// A file of a set: its path as a dataset would name it, and what it holds.
type Entry = (PathBuf, Vec<u8>);

/// All files below a folder, links and pipes too.
fn files_below(folder: &Path, found: &mut Vec<Entry>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if path.is_dir() && !kind.is_symlink() {
            files_below(&path, found);
        } else {
            let bytes = if path.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.push((path, bytes));
        }
    }
}

/// All members of an archive that are no folders.
fn members(archive: &Path) -> Vec<Entry> {
    let mut bytes = fs::read(archive).unwrap();
    // The tar crate takes a volume's label for damage.
    if bytes.get(156) == Some(&b'V') {
        bytes.drain(..512);
    }
    let mut tar = tar::Archive::new(bytes.as_slice());
    let mut found = Vec::new();
    for entry in tar.entries().unwrap() {
        let Ok(mut entry) = entry else { break };
        if matches!(entry.header().entry_type().as_byte(), b'5' | b'D' | b'g') {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let parts = name
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".");
        let name = parts.collect::<Vec<_>>().join("/");
        let mut content = Vec::new();
        let _ = entry.read_to_end(&mut content);
        found.push((archive.join(name), content));
    }
    found
}

/// The name that a path begins with where it is one of several of a name: `1.jpg (2)` is `1.jpg`.
fn base(path: &Path) -> PathBuf {
    let text = path.to_str().unwrap_or_default();
    match text.rsplit_once(" (") {
        Some((name, number)) if number.trim_end_matches(')').parse::<usize>().is_ok() => {
            PathBuf::from(name)
        }
        _ => path.to_owned(),
    }
}

/// Opens a set and finds each of its files again.
fn account(opened: headstart::Result<Dataset>, entries: Vec<Entry>, root: &Path) -> Counts {
    let mut counts = Counts {
        files: entries.len(),
        ..Counts::default()
    };
    let dataset = match opened {
        Ok(dataset) => dataset,
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains(&root.display().to_string()), "{said}");
            counts.refused = Some(said);
            return counts;
        }
    };
    // Every picture is read once.
    let read: usize = Loader::new(&dataset, 8, 8)
        .epoch(0)
        .map(|batch| batch.unwrap().ids.len())
        .sum();
    let problems: Vec<PathBuf> = dataset.problems().into_iter().map(|p| p.path).collect();
    assert!(dataset.problems().iter().all(|p| !p.reason.is_empty()));
    let is_file = |path: &&PathBuf| entries.iter().any(|(own, _)| own == *path);
    counts.others = problems.iter().filter(|path| !is_file(path)).count();
    let mut items: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let good = dataset.items().iter().map(|item| &item.path);
    let good: Vec<_> = good.filter(|path| !problems.contains(path)).collect();
    assert_eq!(read, good.len(), "{}", root.display());
    for path in good {
        let name = if entries.iter().any(|(own, _)| own == path) {
            path.clone()
        } else {
            base(path)
        };
        *items.entry(name).or_default() += 1;
    }
    let archive = root.is_file();
    let sampled = entries.iter().any(|(path, _)| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("cls"))
    });
    let mut seen: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (path, content) in entries {
        let times = seen.entry(path.clone()).or_default();
        *times += 1;
        let ending = path.extension().map(|e| e.to_ascii_lowercase());
        let is_label = ending.is_some_and(|e| e == "cls" || e == "json");
        let left_out = |left: &PathBuf| path.starts_with(left);
        if *times <= items.get(&path).copied().unwrap_or(0) {
            counts.pictures += 1;
        } else if items.contains_key(&path) && archive && !sampled {
            counts.replaced += 1;
        } else if problems.contains(&path) {
            counts.problems += 1;
        } else if dataset.left_out().iter().any(left_out) {
            counts.left_out += 1;
        } else if archive && (is_label || path.ends_with("classes.txt")) {
            counts.labels += 1;
        } else if decode_bytes(&content).is_err() && (archive || path.parent() == Some(root)) {
            counts.beside += 1;
        } else {
            counts.unaccounted.push(path);
        }
    }
    if counts.replaced > 0 {
        let said = dataset.warnings().join("\n");
        assert!(said.contains("replaced by a later member"), "{said}");
    }
    counts
}

/// The parts of a set: archives and folders of classes.
fn parts(set: &Path) -> Vec<(PathBuf, Counts)> {
    let train = set.join("train");
    if set.is_file() {
        let opened = Dataset::open_tar(&[set]);
        return vec![(set.to_owned(), account(opened, members(set), set))];
    }
    let below = |folder: &Path| {
        let mut found = Vec::new();
        files_below(folder, &mut found);
        found
    };
    let is_split = train.is_dir() && set.join("validation").is_dir();
    if !is_split {
        return vec![(set.to_owned(), account(Dataset::open(set), below(set), set))];
    }
    let validation = set.join("validation");
    let classes = Dataset::open(&train).map(|dataset| dataset.class_names().to_vec());
    let opened = classes.and_then(|names| Dataset::open_with_classes(&validation, &names));
    let with_unwanted: Vec<String> = match &opened {
        Ok(dataset) => dataset.warnings().to_vec(),
        Err(_) => Vec::new(),
    };
    let mut second = account(opened, below(&validation), &validation);
    // Folders of other classes are told in a warning.
    let (told, unaccounted) = std::mem::take(&mut second.unaccounted)
        .into_iter()
        .partition(|path| {
            let class = path.strip_prefix(&validation).unwrap().iter().next();
            let class = class.unwrap().to_string_lossy().into_owned();
            with_unwanted.iter().any(|warning| warning.contains(&class))
        });
    let told: Vec<PathBuf> = told;
    second.left_out += told.len();
    second.unaccounted = unaccounted;
    vec![
        (
            train.clone(),
            account(Dataset::open(&train), below(&train), &train),
        ),
        (validation, second),
    ]
}

/// A line of the table.
fn line(name: &str, counts: &Counts) -> String {
    let figures = [
        counts.files,
        counts.pictures,
        counts.problems,
        counts.left_out,
        counts.labels,
        counts.beside,
        counts.replaced,
        counts.others,
    ];
    let figures = figures.map(|n| if n == 0 { "–".into() } else { n.to_string() });
    let refused = counts.refused.as_deref().unwrap_or_default();
    format!("| {name} | {} | {refused} |\n", figures.join(" | "))
}

/// The table of docs/PICTURES.md.
fn table() -> String {
    let mut table = String::from(
        "| set | files | pictures | problems | left out | labels | beside | replaced | of the archive | the whole refused |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut sum = Counts::default();
    for (name, made) in sets() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("set");
        match made {
            Made::Folder(fill) => {
                fs::create_dir(&set).unwrap();
                fill(&set);
            }
            Made::Archive(bytes) => fs::write(&set, bytes).unwrap(),
        }
        for (part, mut counts) in parts(&set) {
            assert!(
                counts.unaccounted.is_empty(),
                "{name}: {:?}",
                counts.unaccounted
            );
            let below = part.strip_prefix(&set).unwrap().display().to_string();
            let name = match below.as_str() {
                "" => name.to_owned(),
                part => format!("{name}, {part}"),
            };
            let here = part.display().to_string();
            counts.refused = counts.refused.map(|said| said.replace(&here, "…"));
            table += &line(&name, &counts);
            sum.files += counts.files;
            sum.pictures += counts.pictures;
            sum.problems += counts.problems;
            sum.left_out += counts.left_out;
            sum.labels += counts.labels;
            sum.beside += counts.beside;
            sum.replaced += counts.replaced;
            sum.others += counts.others;
        }
    }
    table + &line("**all**", &sum) + "\nUnaccounted for: 0.\n"
}

#[test]
fn each_file_of_a_set_is_accounted_for_and_the_docs_say_how() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PICTURES.md");
    let table = table();
    let found = fs::read_to_string(page).unwrap();
    assert!(
        found.contains(&table),
        "docs/PICTURES.md should have\n\n{table}"
    );
}

#[test]
#[ignore = "asks for sets of others"]
fn sets_of_others() {
    let folder = PathBuf::from(std::env::var_os("HEADSTART_SETS").expect("HEADSTART_SETS"));
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let mut unaccounted = 0;
    for set in names {
        if set.is_file() && File::open(&set).is_ok_and(|file| file.metadata().unwrap().len() == 0) {
            continue;
        }
        for (part, counts) in parts(&set) {
            print!("{}", line(&part.display().to_string(), &counts));
            for path in &counts.unaccounted {
                println!("  unaccounted for: {}", path.display());
            }
            unaccounted += counts.unaccounted.len();
        }
    }
    assert_eq!(unaccounted, 0);
}

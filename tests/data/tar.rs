//! Tar archives as datasets: what the unpacked folder would give, WebDataset's samples, and hostile archives.

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use headstart::data::{Loader, Policy};
use headstart::{DirectoryDataset, Error};
use image::{ImageFormat, Rgb, RgbImage};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::files::message;

/// A PNG of one colour.
fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(5, 4, Rgb(colour));
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn header(name: &str, len: usize) -> Header {
    let mut header = Header::new_gnu();
    // Written past the checks of `set_path`, which refuse what hostile archives hold.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(len as u64);
    header.set_cksum();
    header
}

/// An archive in memory of these members, without its end mark.
fn members<N: AsRef<str>, C: AsRef<[u8]>>(members: impl IntoIterator<Item = (N, C)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let (name, content) = (name.as_ref(), content.as_ref());
        bytes.extend(header(name, content.len()).as_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

fn finished(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A folder for archives, and a function that puts one in.
fn folder() -> (TempDir, impl Fn(&str, &[u8]) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let put = move |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    (folder, put)
}

fn open(bytes: &[u8]) -> headstart::Result<DirectoryDataset> {
    let (_folder, put) = folder();
    DirectoryDataset::open_tar(&[put("a.tar", bytes)])
}

/// Names below `root`, with labels.
fn listing(dataset: &DirectoryDataset, root: &Path) -> Vec<(String, usize)> {
    let items = dataset.items().iter();
    items
        .map(|item| {
            let name = item.path.strip_prefix(root).unwrap();
            (name.to_str().unwrap().to_owned(), item.label)
        })
        .collect()
}

#[test]
fn an_archive_is_the_folder_it_was_made_of() {
    let unpacked = tempfile::tempdir().unwrap();
    let long = format!("b/{}/{}.png", "deep".repeat(30), "long".repeat(40));
    let names = [
        "b/2.png",
        "b/10.PNG",
        "b/nested/1.png",
        "b/a.png",
        "b.c/1.png",
        "a/1.png",
        "a/notes.txt",
        "a/.hidden.png",
        ".b/1.png",
        "C/1.png",
        long.as_str(),
    ];
    for (number, name) in (0..).zip(names) {
        let path = unpacked.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, png([number, 2 * number, 3 * number])).unwrap();
    }
    let expected = DirectoryDataset::open(unpacked.path()).unwrap();

    let (_folder, put) = folder();
    // As `tar -cf a.tar .`, `tar -cf a.tar *` and one folder up.
    for above in [".", "", "train", "data/train"] {
        let mut tar = Builder::new(Vec::new());
        if above.is_empty() {
            for class in ["b", "b.c", "a", ".b", "C"] {
                tar.append_dir_all(class, unpacked.path().join(class))
                    .unwrap();
            }
        } else {
            tar.append_dir_all(above, unpacked.path()).unwrap();
        }
        let archive = put("a.tar", &tar.into_inner().unwrap());
        let dataset = DirectoryDataset::open_tar(&[&archive]).unwrap();
        assert_eq!(dataset.class_names(), expected.class_names());
        let above = if above == "." { "" } else { above };
        assert_eq!(
            listing(&dataset, &archive.join(above)),
            listing(&expected, unpacked.path())
        );
        for (item, expected) in dataset.items().iter().zip(expected.items()) {
            assert_eq!(item.id, expected.id);
            assert_eq!(item.decode().unwrap(), expected.decode().unwrap());
        }
        let reasons = |dataset: &DirectoryDataset| -> Vec<String> {
            let problems = dataset.problems().into_iter();
            problems.map(|problem| problem.reason).collect()
        };
        assert_eq!(reasons(&dataset), reasons(&expected));
    }
}

#[test]
fn loader_split_and_classes_work_as_on_folders() {
    let (_folder, put) = folder();
    let pictures = (0..12).map(|n| (format!("class{}/{n:02}.png", n % 3), png([n; 3])));
    let archive = put("a.tar", &finished(members(pictures)));
    let dataset = DirectoryDataset::open_tar(&[&archive]).unwrap();
    assert_eq!(dataset.counts(), [4, 4, 4]);
    let (rest, part) = dataset.split(0.25, 1).unwrap();
    assert_eq!((rest.counts(), part.counts()), (vec![3; 3], vec![1; 3]));
    for batch in Loader::new(&part, 4, 5).batch_size(2).epoch(0) {
        let batch = batch.unwrap();
        let levels = batch.inputs.mean((1, 2, 3)).unwrap();
        let levels: Vec<f32> = levels.to_vec1().unwrap();
        for ((level, id), label) in levels.iter().zip(&batch.ids).zip(&batch.labels) {
            // Items are class by class: (class, n) = (id / 4, 3 · (id % 4) + class).
            let class = id / 4;
            assert_eq!(u64::from(*label), class);
            approx::assert_abs_diff_eq!(
                level * 255.0,
                (3 * (id % 4) + class) as f32,
                epsilon = 1e-3
            );
        }
    }

    let chosen =
        DirectoryDataset::open_tar_with_classes(&[&archive], &["class2", "none", "class0"]);
    let chosen = chosen.unwrap();
    assert_eq!(chosen.class_names(), ["class2", "none", "class0"]);
    assert_eq!(chosen.counts(), [4, 0, 4]);
    assert!(
        message(DirectoryDataset::open_tar_with_classes(
            &[&archive],
            &["x", "y"]
        ))
        .contains("no pictures of any class")
    );
}

#[test]
fn wanted_classes_are_not_taken_for_folders_above() {
    // Of two classes, this archive has one, with folders in it.
    let (_folder, put) = folder();
    let bytes = finished(members([("data/a/x/1.png", ""), ("data/a/y/1.png", "")]));
    let archive = put("a.tar", &bytes);
    let dataset = DirectoryDataset::open_tar_with_classes(&[&archive], &["a", "b"]).unwrap();
    assert_eq!(dataset.counts(), [2, 0]);
}

#[test]
fn shards_are_one_dataset() {
    let (folder, put) = folder();
    let one = put("1.tar", &finished(members([("data/a/1.png", png([1; 3]))])));
    let two = put("2.tar", &finished(members([("data/b/1.png", png([2; 3]))])));
    let dataset = DirectoryDataset::open_tar(&[&one, &two]).unwrap();
    assert_eq!(
        listing(&dataset, folder.path()),
        [
            ("1.tar/data/a/1.png".into(), 0),
            ("2.tar/data/b/1.png".into(), 1)
        ]
    );
    let colours = dataset.items().iter();
    let colours: Vec<_> = colours
        .map(|item| item.decode().unwrap()[(0, 0)].0)
        .collect();
    assert_eq!(colours, [[1; 3], [2; 3]]);
}

#[test]
fn a_member_that_comes_again_replaces_the_former() {
    let bytes = finished(members([
        ("a/1.png", png([1; 3])),
        ("b/1.png", png([2; 3])),
        ("./a/1.png", png([3; 3])),
    ]));
    let (_folder, put) = folder();
    let dataset = DirectoryDataset::open_tar(&[put("a.tar", &bytes)]).unwrap();
    assert_eq!(dataset.len(), 2);
    assert_eq!(dataset.items()[0].decode().unwrap()[(0, 0)].0, [3; 3]);
}

#[test]
fn webdataset_samples_have_their_class_numbers() {
    let (folder, put) = folder();
    let one = [
        ("train/n.01.jpg.txt", "no picture"),
        ("train/0.jpg", "x"),
        ("train/0.cls", "2\n"),
        ("train/0.json", "{}"),
        ("train/1.cls", " 0 "),
        ("train/1.PNG", "x"),
        ("train/1.mask.png", "x"),
    ];
    let two = [("train/0.jpg", "x"), ("train/0.cls", "1")];
    let one = put("one.tar", &finished(members(one)));
    let two = put("two.tar", &finished(members(two)));
    let dataset = DirectoryDataset::open_tar(&[&one, &two]).unwrap();
    assert_eq!(dataset.class_names(), ["0", "1", "2"]);
    let expected = [
        ("one.tar/train/0.jpg".to_owned(), 2),
        ("one.tar/train/1.PNG".to_owned(), 0),
        ("two.tar/train/0.jpg".to_owned(), 1),
    ];
    assert_eq!(listing(&dataset, folder.path()), expected);

    let named = DirectoryDataset::open_tar_with_classes(&[&one, &two], &["a", "b", "c", "d"]);
    let named = named.unwrap();
    assert_eq!(named.class_names(), ["a", "b", "c", "d"]);
    assert_eq!(listing(&named, folder.path()), expected);
    let too_few = DirectoryDataset::open_tar_with_classes(&[&one, &two], &["a", "b"]);
    assert!(matches!(too_few, Err(Error::Mismatch { .. })));
    assert!(message(too_few).contains("class number 2"));

    // Without `two`, no picture is of class 1.
    assert!(message(DirectoryDataset::open_tar(&[&one])).contains("no picture is of class 1"));
    let names = put(
        "names.tar",
        &finished(members([("classes.txt", "a\r\nb\nc\n\n")])),
    );
    let named = DirectoryDataset::open_tar(&[&one, &names]).unwrap();
    assert_eq!(named.class_names(), ["a", "b", "c"]);
    let unnamed = put("bad.tar", &finished(members([("classes.txt", "a\na")])));
    assert!(message(DirectoryDataset::open_tar(&[&one, &unnamed])).contains("classes.txt"));
    let folders = put("folders.tar", &finished(members([("a/1.jpg", "")])));
    assert!(message(DirectoryDataset::open_tar(&[&one, &folders])).contains("folders.tar"));
}

#[test]
fn samples_without_a_class_number_are_problems() {
    let (_folder, put) = folder();
    let archive = put(
        "a.tar",
        &finished(members([
            ("0.jpg", ""),
            ("0.cls", "0"),
            ("1.jpg", ""),
            ("1.cls", "1"),
            ("2.jpg", ""),
            ("3.jpg", ""),
            ("3.cls", "dog"),
            ("4.jpg", ""),
            ("4.cls", "-1"),
        ])),
    );
    let dataset = DirectoryDataset::open_tar(&[&archive]).unwrap();
    assert_eq!(dataset.len(), 2);
    let problems = dataset.problems();
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.path.clone(), problem.reason.contains(".cls`")))
        .collect();
    let expected = ["2.jpg", "3.jpg", "4.jpg"].map(|name| (archive.join(name), true));
    assert_eq!(found, expected);
    assert!(dataset.policy(Policy::Fail).is_err());
}

#[test]
fn a_bad_picture_in_an_archive_is_named() {
    let mut bytes = finished(members([
        ("a/1.png", png([1; 3])),
        ("a/2.png", b"damaged".to_vec()),
        ("b/1.png", png([1; 3])),
    ]));
    let mut link = header("b/2.png", 0);
    link.set_entry_type(EntryType::Symlink);
    link.set_cksum();
    bytes.splice(0..0, link.as_bytes().iter().copied());
    let (_folder, put) = folder();
    let archive = put("a.tar", &bytes);
    let dataset = DirectoryDataset::open_tar(&[&archive]).unwrap();
    assert_eq!(dataset.len(), 3);
    for batch in Loader::new(&dataset, 4, 4).epoch(0) {
        assert_eq!(batch.unwrap().ids, [0, 2]);
    }
    let problems = dataset.problems().into_iter();
    let problems: Vec<_> = problems.map(|problem| problem.path).collect();
    assert_eq!(problems, [archive.join("a/2.png"), archive.join("b/2.png")]);

    // An archive that shrinks after it was opened.
    let fresh = DirectoryDataset::open_tar(&[&archive]).unwrap();
    fs::write(&archive, &bytes[..1024]).unwrap();
    for item in fresh.items() {
        assert!(matches!(item.decode(), Err(Error::Picture { path, .. }) if path == item.path));
    }
    fs::remove_file(&archive).unwrap();
    let gone = fresh.items()[0].decode();
    assert!(matches!(gone, Err(Error::Io { path, .. }) if path == fresh.items()[0].path));
}

#[test]
fn what_is_no_dataset_is_said() {
    let (folder, put) = folder();
    let none: [&str; 0] = [];
    assert!(message(DirectoryDataset::open_tar(&none)).contains("archives"));
    assert!(message(DirectoryDataset::open_tar(&[folder.path()])).contains("not a file"));
    let missing = DirectoryDataset::open_tar(&[folder.path().join("missing.tar")]);
    assert!(matches!(missing, Err(Error::Io { .. })));
    let text = put("text.tar", "no archive".repeat(100).as_bytes());
    let no_archive = DirectoryDataset::open_tar(&[text]).unwrap_err();
    assert!(no_archive.to_string().contains("not a tar archive"));
    let mut cause = no_archive.source().unwrap();
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    assert!(cause.is::<std::io::Error>());
    for (bytes, reason) in [
        (
            finished(members([("1.png", ""), ("2.png", "")])),
            "one folder per class",
        ),
        (
            finished(members([("cat/1.png", "")])),
            "only one class folder, `cat`",
        ),
        (
            finished(members([("0.png", ""), ("0.cls", "0")])),
            "only one class",
        ),
        (
            finished(members([("0.png", ""), ("1.cls", "0")])),
            "no pictures",
        ),
        (finished(Vec::new()), "no class folders"),
        (Vec::new(), "cut short"),
        (b"\x1f\x8b\x08\0\0\0\0".to_vec(), "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd\0\0\0".to_vec(), "compressed with zstd"),
        (b"BZh91AY".to_vec(), "compressed with bzip2"),
        (b"\xfd7zXZ\0\0".to_vec(), "compressed with xz"),
    ] {
        let found = message(open(&bytes));
        assert!(found.contains(reason), "{found}");
    }
}

#[test]
fn cut_anywhere_an_archive_is_refused() {
    let whole = finished(members([
        ("a/1.png", png([1; 3])),
        ("b/1.png", vec![7; 512]),
        ("b/2.png", vec![7; 513]),
    ]));
    assert!(open(&whole).is_ok());
    // One block of the end mark is enough.
    let end = whole.len() - 512;
    for len in (0..end).step_by(13).chain((512..end).step_by(512)) {
        let found = message(open(&whole[..len]));
        assert!(
            found.contains("cut short") || found.contains("damaged"),
            "{len}: {found}"
        );
    }
}

#[test]
fn odd_members_are_problems_and_not_the_end() {
    let good = [("a/1.png", ""), ("b/1.png", "")];
    for name in ["../x/1.png", "a/../../1.png", "/etc/1.png", "a/.."] {
        let odd = members([(name, "")]);
        let dataset = open(&[odd, finished(members(good))].concat()).unwrap();
        assert_eq!(dataset.counts(), [1, 1], "{name}");
        let problems = dataset.problems();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].reason.contains("points outside"), "{name}");
    }
    let mut latin1 = header("a/?.png", 0);
    latin1.as_old_mut().name[2] = 0xe9;
    latin1.set_cksum();
    let mut label = header("My label", 0);
    label.set_entry_type(EntryType::new(b'V'));
    // As GNU tar writes it: without a size.
    label.as_old_mut().size = [0; 12];
    label.set_cksum();
    for (odd, reason) in [(latin1, "UTF-8"), (label, "label")] {
        let dataset = open(&[odd.as_bytes().to_vec(), finished(members(good))].concat()).unwrap();
        assert_eq!(dataset.counts(), [1, 1]);
        assert!(dataset.problems()[0].reason.contains(reason));
    }
    // Where nothing else is left, they are told.
    let found = message(open(&finished(members([
        ("/a/1.png", ""),
        ("/b/1.png", ""),
    ]))));
    assert!(
        found.contains("2 members cannot be used") && found.contains("begins with `/`"),
        "{found}"
    );
}

#[test]
fn what_follows_the_end_mark_is_told() {
    let archive = || finished(members([("a/1.png", ""), ("b/1.png", "")]));
    let told = |bytes: &[u8]| {
        let dataset = open(bytes).unwrap();
        assert_eq!(dataset.counts(), [1, 1]);
        dataset
            .problems()
            .first()
            .map(|problem| problem.reason.clone())
    };
    assert_eq!(told(&[archive(), vec![0; 20_000]].concat()), None);
    let twice = told(&[archive(), vec![0; 9000], archive()].concat()).unwrap();
    assert!(twice.contains("another archive"), "{twice}");
    let rubbish = told(&[archive(), b"rubbish".to_vec()].concat()).unwrap();
    assert!(rubbish.contains("bytes that are not read"), "{rubbish}");
}

#[test]
fn labels_belong_to_samples_and_not_to_names() {
    // Two shards joined: the same keys with other labels.
    let joined = (0..6).flat_map(|n| {
        [
            (format!("{:04}.jpg", n % 3), String::from("x")),
            (format!("{:04}.cls", n % 3), format!("{}", n / 3)),
        ]
    });
    let dataset = open(&finished(members(joined))).unwrap();
    let labels: Vec<_> = dataset.items().iter().map(|item| item.label).collect();
    assert_eq!(labels, [0, 0, 0, 1, 1, 1]);
    // What is known of a picture is known by its name, so each has one of its own.
    let names = dataset.items().iter().map(|item| item.path.file_name());
    let names: Vec<_> = names.map(|name| name.unwrap().to_str().unwrap()).collect();
    assert_eq!(
        names[..4],
        ["0000.jpg", "0001.jpg", "0002.jpg", "0000.jpg (2)"]
    );

    // Not side by side: only names that come once can be joined.
    let apart = [
        ("0.jpg", "x"),
        ("1.jpg", "x"),
        ("1.cls", "1"),
        ("2.jpg", "x"),
        ("0.cls", "0"),
    ];
    let dataset = open(&finished(members(apart))).unwrap();
    let labels: Vec<_> = dataset.items().iter().map(|item| item.label).collect();
    assert_eq!(labels, [0, 1]);
    let missing: Vec<_> = dataset
        .problems()
        .into_iter()
        .map(|problem| problem.reason)
        .collect();
    assert_eq!(missing, ["`2.cls`, with its class number, is missing"]);
}

#[test]
fn a_stray_file_that_is_named_as_a_label_makes_no_samples_of_class_folders() {
    let bytes = finished(members([
        ("train/a/1.png", png([1; 3])),
        ("train/b/1.png", png([2; 3])),
        ("train/paper.cls", b"\\LoadClass{article}".to_vec()),
        ("train/b/thesis.cls", b"\\LoadClass{book}".to_vec()),
    ]));
    assert_eq!(open(&bytes).unwrap().counts(), [1, 1]);
}

#[test]
fn folders_that_were_not_asked_for_are_told_and_those_of_nearly_the_name_refused() {
    let archive = |name: &str| {
        finished(members([
            ("a/1.png".to_owned(), png([1; 3])),
            (format!("{name}/1.png"), png([2; 3])),
        ]))
    };
    let (_folder, put) = folder();
    let with = |bytes: &[u8]| {
        let classes = ["a", "caf\u{e9}"];
        DirectoryDataset::open_tar_with_classes(&[put("a.tar", bytes)], &classes)
    };
    let dataset = with(&archive("other")).unwrap();
    assert_eq!(dataset.counts(), [1, 0]);
    let said = dataset.warnings().join("\n");
    assert!(said.contains("the folders `other` are of none"), "{said}");
    let error = message(with(&archive("cafe\u{301}")));
    assert!(error.contains("`cafe\\u{301}` looks alike"), "{error}");
}

#[test]
fn labels_are_read_where_they_are_plain() {
    let numbered = |labels: [&str; 3]| {
        let members_of = |(n, label): (usize, &str)| {
            [
                (format!("{n}.jpg"), String::from("x")),
                (format!("{n}.cls"), label.to_owned()),
            ]
        };
        open(&finished(members(
            labels.into_iter().enumerate().flat_map(members_of),
        )))
        .unwrap()
    };
    let found = |dataset: &DirectoryDataset| -> Vec<usize> {
        dataset.items().iter().map(|item| item.label).collect()
    };
    for labels in [
        ["1", "0", "1"],
        ["1.0", "0.0", "1"],
        ["\u{feff}1", "0\r\n", " 1 "],
        ["{\"label\": 1}", "{\"cls\": 0}", "1"],
    ] {
        let dataset = numbered(labels);
        assert_eq!(
            (dataset.class_names(), found(&dataset)),
            (&["0".into(), "1".into()][..], vec![1, 0, 1])
        );
    }
    let named = numbered(["dog", "\"cat\"", "{\"label\": \"dog\"}"]);
    assert_eq!(named.class_names(), ["cat", "dog"]);
    assert_eq!(found(&named), [1, 0, 1]);
    let odd = [
        ("0.jpg", "x"),
        ("0.cls", "0"),
        ("1.jpg", "x"),
        ("1.cls", "1"),
        ("2.jpg", "x"),
        ("2.cls", "1.5"),
        ("3.jpg", "x"),
        ("3.cls", "[1]"),
    ];
    let dataset = open(&finished(members(odd))).unwrap();
    assert_eq!(dataset.len(), 2);
    let reasons: Vec<_> = dataset
        .problems()
        .into_iter()
        .map(|problem| problem.reason)
        .collect();
    assert!(
        reasons[0].contains("\"1.5\"") && reasons[1].contains("\"[1]\""),
        "{reasons:?}"
    );

    // In JSON beside each picture, and not in text.
    let json = [
        ("0.jpg", "x"),
        ("0.json", "{\"label\": 0}"),
        ("1.jpg", "x"),
        ("1.json", "{\"label\": 1}"),
    ];
    assert_eq!(found(&open(&finished(members(json))).unwrap()), [0, 1]);
    let text = [
        ("0.jpg", "x"),
        ("0.txt", "0"),
        ("1.jpg", "x"),
        ("1.txt", "1"),
    ];
    assert!(message(open(&finished(members(text)))).contains("2 members end in .txt"));
}

#[test]
fn keys_may_have_dots() {
    let dotted = [
        ("0.v1.jpg", "x"),
        ("0.v1.cls", "1"),
        ("0.v2.jpg", "x"),
        ("0.v2.cls", "0"),
        // WebDataset's own way: one key, a field of its own for the picture.
        ("1.image.png", "x"),
        ("1.cls", "1"),
        ("2.jpg", "x"),
        ("2.mask.png", "x"),
        ("2.cls", "0"),
    ];
    let (_folder, put) = folder();
    let archive = put("a.tar", &finished(members(dotted)));
    let dataset = DirectoryDataset::open_tar(&[&archive]).unwrap();
    let expected = [
        ("0.v1.jpg", 1),
        ("0.v2.jpg", 0),
        ("1.image.png", 1),
        ("2.jpg", 0),
    ];
    assert_eq!(
        listing(&dataset, &archive),
        expected.map(|(name, label)| (name.to_owned(), label))
    );
    assert_eq!(dataset.problems(), []);
}

#[test]
fn a_sample_without_a_readable_picture_is_a_problem() {
    let heic = "\0\0\0\u{18}ftypheic\0\0\0\0mif1heic";
    let odd = [
        ("0.jpg", "x"),
        ("0.cls", "0"),
        ("1.jpg", "x"),
        ("1.cls", "1"),
        ("2.heic", heic),
        ("2.cls", "0"),
        ("3.txt", "a caption"),
        ("3.cls", "0"),
    ];
    let (_folder, put) = folder();
    let archive = put("a.tar", &finished(members(odd)));
    let dataset = DirectoryDataset::open_tar(&[&archive]).unwrap();
    let problems = dataset.problems().into_iter();
    let problems: Vec<_> = problems
        .map(|problem| (problem.path, problem.reason))
        .collect();
    let expected = [
        ("2.heic", "a HEIC picture, which is not read"),
        ("3.cls", "a label without a picture"),
    ];
    assert_eq!(
        problems,
        expected.map(|(name, reason)| (archive.join(name), reason.to_owned()))
    );
}

#[test]
fn absurd_sizes_are_refused() {
    let rest = finished(members([("a/1.png", "x"), ("b/1.png", "x")]));
    for kind in [
        EntryType::Regular,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::GNUSparse,
        EntryType::Directory,
    ] {
        for size in [1 << 20, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut lying = header("a/0.png", 0);
            lying.set_entry_type(kind);
            lying.set_size(size);
            lying.set_cksum();
            let bytes = [lying.as_bytes().as_slice(), &rest].concat();
            let found = message(open(&bytes));
            assert!(
                found.contains("cut short") || found.contains("damaged"),
                "{kind:?} {size}: {found}"
            );
        }
    }
}

#[test]
fn a_name_of_gigabytes_does_not_fill_the_memory() {
    // A sparse file: it takes no room on the disk.
    let (_folder, put) = folder();
    let mut lying = header("long", 0);
    lying.set_entry_type(EntryType::GNULongName);
    lying.set_size(1 << 40);
    lying.set_cksum();
    let archive = put("a.tar", lying.as_bytes());
    let file = fs::OpenOptions::new().write(true).open(&archive).unwrap();
    if file.set_len((1 << 40) + 4096).is_err() {
        return; // This file system has no room for it, even so.
    }
    assert!(message(DirectoryDataset::open_tar(&[&archive])).contains("too long"));
}

#[test]
fn flipped_bits_do_no_harm() {
    let whole = finished(members([
        ("a/1.png", png([1; 3])),
        ("a/0.cls", b"0".to_vec()),
        ("b/1.png", png([2; 3])),
    ]));
    let (_folder, put) = folder();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        if let Ok(dataset) = DirectoryDataset::open_tar(&[put("a.tar", &bytes)]) {
            for item in dataset.items() {
                let _ = item.decode();
            }
        }
    }
}

#[test]
#[ignore = "needs ../shared"]
fn tiny_imagenet_opens_in_place() {
    let folder = Path::new("../shared/data/tiny-imagenet");
    let train = DirectoryDataset::open_tar(&[folder.join("train.tar")]).unwrap();
    let validation = folder.join("validation.tar");
    let validation = DirectoryDataset::open_tar_with_classes(&[validation], train.class_names());
    for (dataset, count) in [(train, 250), (validation.unwrap(), 25)] {
        assert_eq!(dataset.counts(), vec![count; 200]);
        for item in dataset.items().iter().step_by(499) {
            assert_eq!(item.decode().unwrap().dimensions(), (64, 64));
            let name = item.path.to_str().unwrap();
            assert!(name.contains(&dataset.class_names()[item.label]), "{name}");
        }
    }
}

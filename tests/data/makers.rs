//! Small folders and archives as people and their tools leave them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use tar::{Builder, EntryType, Header};

/// A set: a folder that is to be filled, or an archive's bytes.
pub enum Made {
    Folder(Box<dyn Fn(&Path)>),
    Archive(Vec<u8>),
}

/// A picture, another one for each number.
fn picture(number: usize, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(24, 20, |x, y| {
        Rgb([x as usize * 9, y as usize * 11, number * 37].map(|level| level as u8))
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(number: usize) -> Vec<u8> {
    picture(number, ImageFormat::Jpeg)
}

type Files = Vec<(String, Vec<u8>)>;

/// Pictures of these names, separated by spaces.
fn jpegs(names: &str) -> Files {
    let names = names.split(' ').enumerate();
    names.map(|(n, name)| (name.into(), jpeg(n))).collect()
}

fn also<const N: usize>(mut files: Files, others: [(&str, &[u8]); N]) -> Files {
    files.extend(others.map(|(name, bytes)| (name.into(), bytes.to_vec())));
    files
}

fn write(root: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn folder(files: Files) -> Made {
    Made::Folder(Box::new(move |root| write(root, &files)))
}

/// Four pictures in each of two classes.
fn classes() -> Files {
    jpegs(
        "train/a/0.jpg train/a/1.jpg train/a/2.jpg train/a/3.jpg train/b/0.jpg train/b/1.jpg train/b/2.jpg train/b/3.jpg",
    )
}

/// Samples of WebDataset: pictures with what these labels hold.
fn samples<S: AsRef<str>>(labels: impl IntoIterator<Item = S>) -> Files {
    let labels = labels.into_iter().enumerate();
    let pairs = labels.flat_map(|(n, label)| {
        [
            (format!("{n:04}.jpg"), jpeg(n)),
            (format!("{n:04}.cls"), label.as_ref().into()),
        ]
    });
    pairs.collect()
}

fn numbers(start: usize) -> [String; 6] {
    [0, 1, 2, 0, 1, 2].map(|n| (n + start).to_string())
}

/// A member with a header of its own.
fn raw(name: &[u8], kind: u8, bytes: &[u8], link: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(EntryType::new(kind));
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut all = [header.as_bytes().as_slice(), bytes].concat();
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// Members without an end mark.
fn members(files: &Files) -> Vec<u8> {
    let files = files.iter();
    files
        .flat_map(|(name, bytes)| raw(name.as_bytes(), b'0', bytes, ""))
        .collect()
}

fn ended(mut bytes: Vec<u8>) -> Made {
    bytes.resize(bytes.len() + 1024, 0);
    Made::Archive(bytes)
}

fn archive(files: Files) -> Made {
    ended(members(&files))
}

/// By the tar crate, which writes long names in GNU's way.
fn long_names() -> Made {
    let mut tar = Builder::new(Vec::new());
    for (n, class) in ["a", "b", "a", "b"].iter().enumerate() {
        let bytes = jpeg(n);
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let name = format!("train/{class}/{}/{}{n}.jpg", "d".repeat(90), "é".repeat(80));
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    Made::Archive(tar.into_inner().unwrap())
}

/// The same in POSIX's way.
fn extended_names() -> Made {
    let mut bytes = Vec::new();
    for (n, class) in ["a", "b", "a", "b"].iter().enumerate() {
        let name = format!("train/{class}/{}/é{n}.jpg", "d".repeat(150));
        let record = |length: usize| format!("{length} path={name}\n");
        let mut length = record(100).len();
        length = record(length).len();
        bytes.extend(raw(b"PaxHeader", b'x', record(length).as_bytes(), ""));
        bytes.extend(raw(b"short", b'0', &jpeg(n), ""));
    }
    ended(bytes)
}

#[cfg(unix)]
fn odd_kinds(root: &Path) {
    use std::os::unix::fs::symlink;
    write(root, &jpegs("a/1.jpg b/1.jpg a/folder.jpg/2.jpg"));
    crate::files::pipe(&root.join("a/pipe.jpg"));
    symlink("nowhere.jpg", root.join("b/dangling.jpg")).unwrap();
    symlink("../a/1.jpg", root.join("b/link.jpg")).unwrap();
    fs::create_dir(root.join("a/empty")).unwrap();
}

/// File names that are not UTF-8.
#[cfg(target_os = "linux")]
fn not_unicode(root: &Path) {
    use std::os::unix::ffi::OsStrExt;
    write(root, &jpegs("a/1.jpg b/1.jpg"));
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.jpg");
    fs::write(root.join("a").join(name), jpeg(3)).unwrap();
}

fn folders() -> Vec<(&'static str, Made)> {
    let bad = |files: Files| -> Files {
        let bytes = |name: &String| match name.starts_with('a') {
            true => jpeg(1),
            false => b"not a picture".to_vec(),
        };
        files.iter().map(|(n, _)| (n.clone(), bytes(n))).collect()
    };
    let mac = b"\0\x05\x16\x07\0\x02";
    vec![
        (
            "other endings",
            folder(jpegs(
                "a/1.jpg a/2.jfif a/3.jpe a/4 a/5.jpg_large a/6.jpg?w=300 a/7.heic a/8.avif a/9.jpg.1 b/1.JPG b/2.JpEg",
            )),
        ),
        (
            "pictures that are not read",
            folder(also(
                jpegs("a/1.jpg b/1.jpg"),
                [
                    ("a/2.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
                    ("a/3.ppm", b"P6 1 1 255 abc"),
                    ("a/4.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
                    ("b/5.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0isommp42"),
                    ("b/notes.txt", b"the red one is Anna's"),
                    ("b/empty.jpg", b""),
                ],
            )),
        ),
        (
            "a Mac's and Windows' files",
            folder(also(
                jpegs("a/1.jpg b/1.jpg"),
                [
                    ("__MACOSX/a/._1.jpg", mac),
                    ("a/._1.jpg", mac),
                    ("a/.DS_Store", b"x"),
                    ("b/Thumbs.db", b"x"),
                    ("b/desktop.ini", b"x"),
                    (".DS_Store", b"x"),
                ],
            )),
        ),
        (
            "a notebook's checkpoints",
            folder(jpegs(
                "a/1.jpg a/.ipynb_checkpoints/1-checkpoint.jpg b/1.jpg .ipynb_checkpoints/2.jpg",
            )),
        ),
        (
            "a network drive's thumbnails",
            folder(jpegs(
                "a/1.jpg a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg b/1.jpg @eaDir/a/1.jpg/S.jpg b/#recycle/9.jpg",
            )),
        ),
        (
            "notes and pictures beside the classes",
            folder(also(
                jpegs("a/1.jpg b/1.jpg preview.png"),
                [
                    ("README.md", b"# two classes"),
                    ("labels.csv", b"a,0\nb,1\n"),
                ],
            )),
        ),
        (
            "hidden classes",
            folder(jpegs(".net/1.jpg a/1.jpg b/1.jpg")),
        ),
        (
            "one class only",
            folder(jpegs("train/train/a/1.jpg train/train/b/1.jpg")),
        ),
        (
            "names with spaces, dots and more",
            folder(jpegs(
                "a/a.b.c.jpg a/😀.jpg a/%s.jpg b/-rf.jpg b/#.jpg b/$(x).jpg",
            )),
        ),
        (
            "a class without a good picture",
            folder(bad(jpegs("a/1.jpg a/2.jpg b/1.jpg b/2.jpg"))),
        ),
        (
            "a class more in validation",
            folder(jpegs(
                "train/a/1.jpg train/b/1.jpg validation/a/1.jpg validation/b/1.jpg validation/c/1.jpg",
            )),
        ),
        (
            "a class missing in validation",
            folder(jpegs("train/a/1.jpg train/b/1.jpg validation/a/1.jpg")),
        ),
        (
            "names in other letters in validation",
            folder(jpegs(
                "train/Cat/1.jpg train/Dog/1.jpg validation/cat/1.jpg validation/dog/1.jpg",
            )),
        ),
        (
            "names in another Unicode form in validation",
            folder(jpegs(
                "train/caf\u{e9}/1.jpg train/tea/1.jpg validation/cafe\u{301}/1.jpg validation/tea/1.jpg",
            )),
        ),
        #[cfg(unix)]
        (
            "links, pipes and folders",
            Made::Folder(Box::new(odd_kinds)),
        ),
        #[cfg(target_os = "linux")]
        (
            "a file name that is not UTF-8",
            Made::Folder(Box::new(not_unicode)),
        ),
    ]
}

fn class_archives() -> Vec<(&'static str, Made)> {
    let plain = || members(&classes());
    let renamed = |change: fn(&str) -> String| -> Files {
        let files = classes().into_iter();
        files.map(|(n, bytes)| (change(&n), bytes)).collect()
    };
    let with = |extra: Vec<u8>| ended([plain(), extra].concat());
    vec![
        ("tar", archive(classes())),
        (
            "tar, `./` before names",
            archive(renamed(|n| format!("./{n}"))),
        ),
        (
            "tar, absolute names",
            archive(renamed(|n| format!("/data/{n}"))),
        ),
        (
            "tar, one absolute name",
            with(raw(b"/etc/1.jpg", b'0', &jpeg(9), "")),
        ),
        (
            "tar, `..` in a name",
            with(raw(b"train/../../1.jpg", b'0', &jpeg(9), "")),
        ),
        ("tar, without its end mark", Made::Archive(plain())),
        (
            "tar, half an end mark",
            Made::Archive([plain(), vec![0; 512]].concat()),
        ),
        ("tar, cut", Made::Archive(plain()[..2000].to_vec())),
        ("tar, empty", ended(Vec::new())),
        (
            "tar, two joined",
            Made::Archive([plain(), vec![0; 1024], plain(), vec![0; 1024]].concat()),
        ),
        (
            "tar, rubbish behind",
            Made::Archive([plain(), vec![0; 1024], b"rubbish".repeat(99)].concat()),
        ),
        (
            "tar, names that come again",
            archive([classes(), classes()].concat()),
        ),
        (
            "tar, a name that is not UTF-8",
            with(raw(b"train/a/caf\xe9.jpg", b'0', &jpeg(9), "")),
        ),
        (
            "tar, notes not named in UTF-8",
            with(raw(b"train/caf\xe9.txt", b'0', b"x", "")),
        ),
        (
            "tar, links",
            with(
                [
                    raw(b"train/b/8.jpg", b'1', b"", "train/a/1.jpg"),
                    raw(b"train/b/9.jpg", b'2', b"", "../a/1.jpg"),
                ]
                .concat(),
            ),
        ),
        (
            "tar, a pipe and a device",
            with(
                [
                    raw(b"train/b/8.jpg", b'6', b"", ""),
                    raw(b"train/b/9.jpg", b'3', b"", ""),
                ]
                .concat(),
            ),
        ),
        (
            "tar, a volume's label",
            ended([raw(b"My label", b'V', b"", ""), plain()].concat()),
        ),
        (
            "tar, folders",
            ended(
                [
                    raw(b"train/", b'5', b"", ""),
                    raw(b"train/a/", b'5', b"", ""),
                    plain(),
                ]
                .concat(),
            ),
        ),
        (
            "tar, GNU's incremental folders",
            ended([raw(b"train/a/", b'D', b"Y0.jpg\0\0", ""), plain()].concat()),
        ),
        (
            "tar, empty pictures",
            with(raw(b"train/a/9.jpg", b'0', b"", "")),
        ),
        (
            "tar, a picture beside the classes",
            with(raw(b"preview.png", b'0', &jpeg(1), "")),
        ),
        (
            "tar, notes beside the classes",
            with(
                [
                    raw(b"README.md", b'0', b"# pictures", ""),
                    raw(b"train/labels.csv", b'0', b"a,0", ""),
                ]
                .concat(),
            ),
        ),
        (
            "tar, a Mac's forks",
            with(
                [
                    raw(b"train/a/._0.jpg", b'0', b"\0\x05\x16\x07", ""),
                    raw(b"__MACOSX/._a", b'0', b"x", ""),
                ]
                .concat(),
            ),
        ),
        (
            "tar, other endings",
            archive(renamed(|n| n.replace(".jpg", ".jfif"))),
        ),
        (
            "tar, two folders above",
            archive(
                [
                    renamed(|n| n.replace("train", "shard1")),
                    renamed(|n| n.replace("train", "shard2")),
                ]
                .concat(),
            ),
        ),
        ("tar, long names (GNU)", long_names()),
        ("tar, long names (POSIX)", extended_names()),
    ]
}

fn sample_archives() -> Vec<(&'static str, Made)> {
    let renamed = |change: fn(&str) -> String| -> Files {
        let files = samples(numbers(0)).into_iter();
        files.map(|(n, bytes)| (change(&n), bytes)).collect()
    };
    let beside = |ending: &str, content: fn(usize) -> Vec<u8>| -> Files {
        let pairs = (0..6).flat_map(|n| {
            [
                (format!("{n:04}.jpg"), jpeg(n)),
                (format!("{n:04}.{ending}"), content(n)),
            ]
        });
        pairs.collect()
    };
    let listed = |list: &[u8]| {
        archive(
            [
                also(Vec::new(), [("classes.txt", list)]),
                samples(numbers(0)),
            ]
            .concat(),
        )
    };
    vec![
        ("samples", archive(samples(numbers(0)))),
        ("samples, numbers from 1", archive(samples(numbers(1)))),
        (
            "samples, Windows' lines",
            archive(samples(numbers(0).map(|n| n + "\r\n"))),
        ),
        (
            "samples, a byte order mark",
            archive(samples(numbers(0).map(|n| format!("\u{feff}{n}")))),
        ),
        (
            "samples, `1.0`",
            archive(samples(numbers(0).map(|n| n + ".0"))),
        ),
        (
            "samples, names",
            archive(samples(["cat", "dog", "bird", "cat", "dog", "bird"])),
        ),
        (
            "samples, one label that is none",
            archive(samples(["0", "1", "0", "1", "-1", "[0, 1]"])),
        ),
        (
            "samples, JSON in .cls",
            archive(samples(["{\"label\": 0}", "{\"label\": 1}"])),
        ),
        (
            "samples, .json",
            archive(beside("json", |n| {
                format!("{{\"label\": {}}}", n % 3).into()
            })),
        ),
        (
            "samples, .json without a label",
            archive(beside("json", |n| format!("{{\"width\": {n}}}").into())),
        ),
        (
            "samples, .txt alone",
            archive(beside("txt", |n| (n % 3).to_string().into())),
        ),
        ("samples, capitals", archive(renamed(|n| n.to_uppercase()))),
        (
            "samples, dots in keys",
            archive(renamed(|n| n.replacen('.', ".5_x.", 1))),
        ),
        (
            "samples, dots in some keys",
            archive(renamed(|n| {
                if n.starts_with("0003") {
                    n.replacen('.', ".5_x.", 1)
                } else {
                    n.into()
                }
            })),
        ),
        (
            "samples, in folders with dots",
            archive(renamed(|n| format!("n.v2/{n}"))),
        ),
        (
            "samples, joined: names come again",
            archive([samples(["0", "0", "0"]), samples(["1", "1", "1"])].concat()),
        ),
        (
            "samples, two pictures",
            archive(
                (0..4)
                    .flat_map(|n| {
                        [
                            (format!("{n}.jpg"), jpeg(n)),
                            (format!("{n}.png"), picture(n, ImageFormat::Png)),
                            (format!("{n}.cls"), (n % 2).to_string().into()),
                        ]
                    })
                    .collect(),
            ),
        ),
        (
            "samples, captions",
            archive(
                samples(numbers(0))
                    .into_iter()
                    .flat_map(|(n, bytes)| {
                        let caption = n
                            .ends_with("cls")
                            .then(|| (n.replace("cls", "txt"), b"a dog".to_vec()));
                        [Some((n, bytes)), caption]
                    })
                    .flatten()
                    .collect(),
            ),
        ),
        (
            "samples, a picture without a label",
            archive([samples(numbers(0)), jpegs("9.jpg")].concat()),
        ),
        (
            "samples, a label without a picture",
            archive(also(samples(numbers(0)), [("9.cls", b"1")])),
        ),
        (
            "samples, a HEIC picture",
            archive(also(
                samples(numbers(0)),
                [
                    ("9.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
                    ("9.cls", b"1"),
                ],
            )),
        ),
        (
            "samples, a list of names with a byte order mark",
            listed(b"\xef\xbb\xbfcat\ndog\nbird"),
        ),
        (
            "samples, a list of names in Windows' lines",
            listed(b"cat\r\ndog\r\nbird\r\n"),
        ),
        ("samples, a list too short", listed(b"cat\ndog\n")),
    ]
}

/// All sets, by name.
pub fn sets() -> Vec<(&'static str, Made)> {
    let all = [folders(), class_archives(), sample_archives()];
    let all: Vec<_> = all.into_iter().flatten().collect();
    let names: BTreeMap<_, _> = all.iter().map(|(name, _)| (*name, ())).collect();
    assert_eq!(names.len(), all.len(), "a name comes twice");
    all
}

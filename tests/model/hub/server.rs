//! A hub on the loopback that speaks the hub's routes, obeys its modes and counts its bytes. Weight files are laid out
//! like timm's, classifier included, and made up as they are sent.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::Tensor;
use headstart::model::Hub;
use serde_json::{Map, Value, json};

use crate::common::numbers::values;
use crate::streams::Tensors;

/// What is kept of a file in the cache.
pub(super) const KEPT: &str = "headstart-conv-base.safetensors";

/// What the names of batch norms' counts end in.
const COUNT: &str = "num_batches_tracked";

/// A file as timm's.
pub(super) struct Served {
    pub(super) header: Vec<u8>,
    /// Bytes of tensors.
    data: u64,
    /// Bytes of the base.
    pub(super) convolutions: u64,
    /// Tensors by name, with their offsets in f32.
    offsets: Vec<(String, Range<usize>)>,
}

impl Served {
    /// A file as safetensors orders it: the batch norms' counts, which are integers, then all others by their names.
    pub(super) fn of(
        base: Tensors,
        rest: &[(&str, &[usize])],
        meddle: impl FnOnce(&mut Map<String, Value>),
    ) -> Self {
        let counts = base.iter().filter_map(|(name, _)| {
            let norm = name.strip_suffix("running_mean")?;
            Some((false, format!("{norm}{COUNT}"), vec![]))
        });
        let rest = rest.iter();
        let rest = rest.map(|(name, shape)| (false, (*name).to_owned(), shape.to_vec()));
        let mut tensors: Vec<_> = counts.chain(rest).collect();
        tensors.extend(base.into_iter().map(|(name, shape)| (true, name, shape)));
        tensors.sort_by_key(|(_, name, _)| (!name.ends_with(COUNT), name.clone()));

        let (mut entries, mut offsets) = (Map::new(), Vec::new());
        let (mut end, mut convolutions) = (0, 0);
        for (in_base, name, shape) in tensors {
            let (dtype, words) = if name.ends_with(COUNT) {
                ("I64", 2)
            } else {
                ("F32", 1)
            };
            let start = end;
            end += words * shape.iter().product::<usize>();
            if in_base {
                convolutions += 4 * (end - start) as u64;
            }
            entries.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [4 * start, 4 * end]}),
            );
            offsets.push((name, start..end));
        }
        meddle(&mut entries);
        let json = Value::Object(entries).to_string().into_bytes();
        let header = [(json.len() as u64).to_le_bytes().to_vec(), json].concat();
        Self {
            header,
            data: 4 * end as u64,
            convolutions,
            offsets,
        }
    }

    /// Where in the file a tensor's bytes are.
    pub(super) fn bytes_of(&self, name: &str) -> Range<u64> {
        let (_, words) = self.offsets.iter().find(|(n, _)| n == name).unwrap();
        let place = |word: usize| self.header.len() as u64 + 4 * word as u64;
        place(words.start)..place(words.end)
    }

    /// The same file on the disk.
    pub(super) fn write(&self, path: &Path) {
        let mut file = std::fs::File::create(path).unwrap();
        self.send(0..self.length(), |bytes| file.write_all(bytes).is_ok());
    }

    pub(super) fn length(&self) -> u64 {
        self.header.len() as u64 + self.data
    }

    /// The `index`-th number of the data; none is negative, for some are variances.
    pub(super) fn value(index: u64) -> f32 {
        (index % 8191) as f32 / 4096.0
    }

    /// Sends bytes of the file, made up as they go.
    pub(super) fn send(&self, range: Range<u64>, mut out: impl FnMut(&[u8]) -> bool) {
        let header = self.header.len() as u64;
        let mut position = range.start;
        while position < range.end {
            let mut chunk = Vec::with_capacity(1 << 16);
            if position < header {
                let end = range.end.min(header);
                chunk.extend(&self.header[position as usize..end as usize]);
            } else {
                let first = (position - header) / 4;
                (first..first + (1 << 14)).for_each(|k| chunk.extend(Self::value(k).to_le_bytes()));
                chunk.drain(..((position - header) % 4) as usize);
                chunk.truncate((range.end - position) as usize);
            }
            position += chunk.len() as u64;
            if !out(&chunk) {
                return;
            }
        }
    }

    /// A tensor has this one's numbers.
    pub(super) fn assert_is(&self, name: &str, tensor: &Tensor) {
        let (_, offsets) = self.offsets.iter().find(|(n, _)| n == name).unwrap();
        let values = values(tensor);
        assert_eq!(values.len(), offsets.len(), "{name}");
        for (index, value) in offsets.clone().zip(values) {
            assert_eq!(value, Self::value(index as u64), "{name}");
        }
    }
}

/// What the server does with a request.
#[derive(Clone)]
pub(super) enum Mode {
    /// What the hub does.
    Normal,
    /// The whole file, whatever was asked for.
    NoRanges,
    /// A range other than the one asked for.
    WrongRange,
    /// An answer without the file.
    Status(&'static str),
    /// Bodies end after so many bytes, and the connection with them.
    Short(u64),
    /// Bodies stop after so many bytes, and the connection stays.
    Stall(u64),
    /// No answer at all.
    Silent,
    /// 302 to another address.
    Redirect(String),
    /// A pause before every 64 kB.
    Slow(Duration),
    /// A byte, then a pause, again and again.
    Trickle(Duration),
    /// Another body, with 200.
    Page(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) range: Option<Range<u64>>,
    pub(super) authorization: Option<String>,
}

/// A hub on the loopback.
pub(super) struct Server {
    pub(super) address: String,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) mode: Mutex<Mode>,
    pub(super) file: Mutex<Arc<Served>>,
    pub(super) etag: Mutex<String>,
    pub(super) commit: String,
    pub(super) requests: Mutex<Vec<Request>>,
    pub(super) sent: AtomicU64,
}

impl Server {
    pub(super) fn new(file: Served) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Normal),
            file: Mutex::new(Arc::new(file)),
            etag: Mutex::new("\"5eed\"".to_owned()),
            commit: "c0ffee0000000000000000000000000000000000".to_owned(),
            requests: Mutex::default(),
            sent: AtomicU64::new(0),
        });
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = for_thread.clone();
                // A client that hangs up is the business of the test.
                std::thread::spawn(move || shared.answer(stream));
            }
        });
        Self { address, shared }
    }

    pub(super) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    pub(super) fn serve(&self, file: Served) {
        *self.shared.file.lock().unwrap() = Arc::new(file);
    }

    pub(super) fn file(&self) -> Arc<Served> {
        self.shared.file.lock().unwrap().clone()
    }

    /// Requests and bytes since the last call.
    pub(super) fn traffic(&self) -> (Vec<Request>, u64) {
        let requests = std::mem::take(&mut *self.shared.requests.lock().unwrap());
        (requests, self.shared.sent.swap(0, Ordering::SeqCst))
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut request = Request {
            path,
            range: None,
            authorization: None,
        };
        for line in lines
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
        {
            let (name, value) = line.split_once(": ")?;
            match name.to_lowercase().as_str() {
                "range" => {
                    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                    request.range = Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1);
                }
                "authorization" => request.authorization = Some(value.to_owned()),
                _ => (),
            }
        }
        self.requests.lock().unwrap().push(request.clone());
        let mode = self.mode.lock().unwrap().clone();
        let file = self.file.lock().unwrap().clone();
        let total = file.length();
        let mut range = request.range.unwrap_or(0..total);
        range.end = range.end.min(total);
        let mut status = "206 Partial Content";
        match &mode {
            Mode::NoRanges => (status, range) = ("200 OK", 0..total),
            Mode::WrongRange => range = range.start + 1..range.end,
            Mode::Status(other) => {
                write!(
                    stream,
                    "HTTP/1.1 {other}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                .ok()?;
                return None;
            }
            Mode::Page(page) => {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                    page.len()
                )
                .ok()?;
                return None;
            }
            Mode::Silent => {
                std::thread::sleep(Duration::from_secs(5));
                return None;
            }
            Mode::Redirect(target) => {
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nlocation: {target}\r\nx-repo-commit: {}\r\nx-linked-etag: {}\r\n\
                     x-linked-size: {total}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    self.commit,
                    self.etag.lock().unwrap(),
                )
                .ok()?;
                return None;
            }
            _ => (),
        }
        let etag = self.etag.lock().unwrap().clone();
        write!(
            stream,
            "HTTP/1.1 {status}\r\netag: {etag}\r\nx-repo-commit: {}\r\naccept-ranges: bytes\r\n\
             content-length: {}\r\nconnection: close\r\n",
            self.commit,
            range.end - range.start
        )
        .ok()?;
        if status.starts_with("206") {
            let (first, last) = (range.start, range.end - 1);
            write!(stream, "content-range: bytes {first}-{last}/{total}\r\n").ok()?;
        }
        write!(stream, "\r\n").ok()?;
        if let Mode::Short(most) | Mode::Stall(most) = mode {
            range.end = range.end.min(range.start + most);
        }
        if let Mode::Trickle(pause) = mode {
            file.send(range, |bytes| {
                bytes.iter().all(|byte| {
                    std::thread::sleep(pause);
                    stream.write_all(&[*byte]).is_ok()
                })
            });
            return None;
        }
        file.send(range, |bytes| {
            if let Mode::Slow(pause) = mode {
                std::thread::sleep(pause);
            }
            let sent = stream.write_all(bytes).is_ok();
            if sent {
                self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            sent
        });
        if let Mode::Stall(_) = mode {
            std::thread::sleep(Duration::from_secs(5));
        }
        Some(())
    }
}

pub(super) fn hub(server: &Server, cache: &Path) -> Hub {
    Hub::from_env()
        .endpoint(&server.address)
        .cache_dir(cache)
        .token(None)
        .offline(false)
        .timeout(Duration::from_millis(700))
}

pub(super) fn snapshot(cache: &Path, repository: &str, commit: &str) -> PathBuf {
    cache.join(format!("models--timm--{repository}/snapshots/{commit}"))
}

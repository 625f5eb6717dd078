//! ImageNet weights from the Hugging Face hub: the convolutions' bytes and no others.
//!
//! A VGG19 file is 574 MB, of which the convolutions are 80. The file's header is fetched first, then the ranges
//! that hold the wanted tensors; they are kept as one small safetensors file in the hub's cache, under the
//! revision they are from.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;
use safetensors::tensor::{Dtype, Metadata};
use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

use super::naming::Naming;
use crate::error::{Cause, While};
use crate::error::{Error, Result};
use crate::model::arch::{Arch, Pretrained};
use crate::model::names;

/// The hub's file.
const FILE: &str = "model.safetensors";

/// Ours, beside it in the cache.
const KEPT_FILE: &str = "headstart-conv-base.safetensors";

/// What is asked for first; timm's headers have 3 to 60 kB.
const FIRST_BYTES: u64 = 64 << 10;

/// The longest header that is believed.
const MAX_HEADER: u64 = 16 << 20;

const MAX_REDIRECTS: usize = 5;

/// Where ImageNet weights are fetched from and kept.
///
/// ```
/// use std::time::Duration;
/// use headstart::Weights;
/// use headstart::model::Hub;
///
/// let hub = Hub::from_env().offline(true).timeout(Duration::from_secs(10));
/// let weights = Weights::Hub(hub);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    timeout: Duration,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token must not end up in a log.
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token_set", &self.token.is_some())
            .field("offline", &self.offline)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Hub {
    /// The settings that other programs use: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME` for the cache,
    /// `HF_TOKEN` or the token that was stored on login, and `HF_HUB_OFFLINE=1` for the cache only. Without them,
    /// the hub itself and `~/.cache/huggingface/hub`.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // hf-hub panics where there is no home to keep a cache in.
        let home = if set("HF_HOME").is_some() || std::env::home_dir().is_some() {
            Cache::from_env()
        } else {
            Cache::new(".cache/huggingface/hub".into())
        };
        let offline = set("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())
        });
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: set("HF_TOKEN").or_else(|| home.token()),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.path().clone(), PathBuf::from),
            offline,
            timeout: Duration::from_secs(30),
        }
    }

    /// Sets the hub's address.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = url.into();
        self
    }

    /// Sets the folder of the cache.
    pub fn cache_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = path.into();
        self
    }

    /// Sets the access token; it is sent to the hub alone, not where the hub redirects to.
    pub fn token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// Uses the cache only, and fails without a request when it has not what is needed.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets how long the hub may keep silent, while connecting or sending, before it counts as stalled; the
    /// default is 30 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A file with the base's convolutions: from the cache, or fetched into it.
    pub(super) fn conv_base(&self, arch: &Arch) -> Result<PathBuf> {
        let source = Source::of(arch)?;
        let cache = Cache::new(self.cache.clone()).repo(source.repo());
        if let Some(path) = source.cached(&cache) {
            return Ok(path);
        }
        if self.offline {
            let place = cache.pointer_path(source.revision);
            return Err(source.error(format!(
                "not in the cache ({}), and offline",
                place.display()
            )));
        }
        Download::new(self, &source)?.run(&cache, arch)
    }
}

/// A repository at a revision.
struct Source {
    repository: String,
    revision: &'static str,
    weights: Pretrained,
}

impl Source {
    fn of(arch: &Arch) -> Result<Self> {
        let weights = arch.weights().ok_or_else(|| {
            let allowed =
                "a base of `bases()` with Weights::ImageNet: the hub has no weights of others";
            Error::option("base", format!("`{arch}`"), allowed)
        })?;
        Ok(Self {
            repository: weights.repository(),
            revision: weights.revision,
            weights: *weights,
        })
    }

    /// Whether the revision is a commit, which never changes, and not a branch.
    fn is_pinned(&self) -> bool {
        self.revision.len() == 40
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(
            self.repository.clone(),
            RepoType::Model,
            self.revision.to_owned(),
        )
    }

    /// Our file, or the hub's own if another program fetched it whole.
    fn cached(&self, cache: &CacheRepo) -> Option<PathBuf> {
        [KEPT_FILE, FILE].into_iter().find_map(|name| {
            let pinned = cache.pointer_path(self.revision).join(name);
            pinned
                .is_file()
                .then_some(pinned)
                .or_else(|| cache.get(name))
        })
    }

    fn error(&self, source: impl Into<Cause>) -> Error {
        Error::Hub {
            repository: format!("{}@{}", self.repository, self.revision),
            file: FILE.to_owned(),
            source: source.into(),
        }
    }
}

/// One fetch of a file's convolutions.
struct Download<'a> {
    hub: &'a Hub,
    source: &'a Source,
    agent: Agent,
    url: Uri,
}

impl<'a> Download<'a> {
    fn new(hub: &'a Hub, source: &'a Source) -> Result<Self> {
        let timeout = Some(hub.timeout);
        // Redirects are followed by hand: the first answer names the commit, and the token is for the hub
        // alone.
        let agent = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            // A compressed range would not be the file's bytes.
            .accept_encoding("identity")
            .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let url = format!(
            "{}/{}/resolve/{}/{FILE}",
            hub.endpoint.trim_end_matches('/'),
            source.repository,
            source.revision
        );
        let url = url
            .parse()
            .map_err(|error| source.error(format!("{url} is no address: {error}")))?;
        Ok(Self {
            hub,
            source,
            agent,
            url,
        })
    }

    fn run(&self, cache: &CacheRepo, arch: &Arch) -> Result<PathBuf> {
        let mut stream = self.open(0, FIRST_BYTES)?;
        let plan = self.plan(&mut stream, arch)?;

        let revision = self.source.revision;
        let commit = match &stream.commit {
            Some(commit) if !self.source.is_pinned() => commit.clone(),
            _ => revision.to_owned(),
        };
        let folder = cache.pointer_path(&commit);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        // One download at a time; whoever waited finds the file there.
        let lock_path = folder.join(format!("{KEPT_FILE}.lock"));
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        lock.lock().map_err(Error::io(&lock_path))?;
        let path = folder.join(KEPT_FILE);
        if path.is_file() {
            return Ok(path);
        }
        let identity = stream.identity().unwrap_or("unknown".to_owned());
        let part = folder.join(format!("{KEPT_FILE}.{identity}.part"));
        self.fetch(&plan, stream, &part)?;
        fs::rename(&part, &path).map_err(Error::io(&path))?;
        if commit != revision {
            cache.create_ref(&commit).map_err(Error::io(&folder))?;
        }
        Ok(path)
    }

    /// Reads the file's header and works out which bytes are wanted.
    fn plan(&self, stream: &mut Stream, arch: &Arch) -> Result<Plan> {
        let mut bytes = vec![0; 8];
        self.read(stream, &mut bytes)?;
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        if length > MAX_HEADER {
            return Err(self.source.error(format!(
                "not a safetensors file: it claims a header of {length} bytes"
            )));
        }
        bytes.resize(8 + length as usize, 0);
        let held = match stream.end {
            Some(end) => bytes.len().min(end.max(8) as usize),
            None => bytes.len(),
        };
        self.read(stream, &mut bytes[8..held])?;
        if held < bytes.len() {
            *stream = self.reopen(stream, held as u64, bytes.len() as u64)?;
            self.read(stream, &mut bytes[held..])?;
        }
        let header: Metadata = serde_json::from_slice(&bytes[8..])
            .map_err(|error| self.source.error(While::new("damaged header", error)))?;
        let data = bytes.len() as u64;
        let wanted = data.checked_add(header.data_len() as u64);
        if wanted.is_none() || stream.total.is_some() && stream.total != wanted {
            return Err(self.source.error(format!(
                "its header announces {} bytes of tensors, which is not what the file has",
                header.data_len()
            )));
        }
        Plan::new(self.source, arch, &header, data)
    }

    /// Fetches what `part` does not hold yet, and checks that it is whole.
    fn fetch(&self, plan: &Plan, mut stream: Stream, part: &Path) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(part)
            .map_err(Error::io(part))?;
        let mut held = file.metadata().map_err(Error::io(part))?.len();
        let mut start = vec![0; plan.header.len()];
        // Without an etag nothing says that the file is still the one that was begun.
        let resumable = stream.etag.is_some()
            && held >= plan.header.len() as u64
            && file.read_exact(&mut start).is_ok()
            && start == plan.header
            && held <= plan.length();
        if !resumable {
            file.set_len(0).map_err(Error::io(part))?;
            file.write_all(&plan.header).map_err(Error::io(part))?;
            held = plan.header.len() as u64;
        }

        let progress = progress_bar(self.source, plan.length());
        let mut done = plan.header.len() as u64;
        for range in &plan.ranges {
            let length = range.end - range.start;
            let skip = held.saturating_sub(done).min(length);
            done += length;
            if skip == length {
                continue;
            }
            progress.set_position(done - length + skip);
            let from = range.start + skip;
            let ahead = stream.end.is_none_or(|end| range.end <= end) && stream.position <= from;
            if !ahead {
                stream = self.reopen(&stream, from, range.end)?;
            }
            self.discard(&mut stream, from)?;
            self.copy(&mut stream, range.end, &mut file, part, &progress)?;
        }
        progress.finish_and_clear();
        file.sync_all().map_err(Error::io(part))?;
        let length = file.metadata().map_err(Error::io(part))?.len();
        if length != plan.length() {
            return Err(self
                .source
                .error(format!("{length} bytes kept of {}", plan.length())));
        }
        Ok(())
    }

    /// Asks for more of the file that `stream` is of, and for no other version of it.
    fn reopen(&self, stream: &Stream, start: u64, end: u64) -> Result<Stream> {
        let next = self.open(start, end)?;
        if next.etag != stream.etag || next.total != stream.total {
            return Err(self
                .source
                .error("the file changed while it was fetched; try again"));
        }
        Ok(next)
    }

    /// Asks for bytes from `start` to `end` (exclusive). A server without ranges sends the whole file instead.
    fn open(&self, start: u64, end: u64) -> Result<Stream> {
        let range = format!("bytes={start}-{}", end - 1);
        let mut url = self.url.clone();
        let mut commit = None;
        let mut etag = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url).header(header::RANGE, &range);
            let is_hub =
                (url.scheme(), url.authority()) == (self.url.scheme(), self.url.authority());
            if let Some(token) = self.hub.token.as_ref().filter(|_| is_hub) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.failure(&url, error))?;
            commit = commit.or_else(|| text(&response, "x-repo-commit"));
            etag = etag
                .or_else(|| text(&response, "x-linked-etag"))
                .or_else(|| text(&response, "etag"));
            let status = response.status();
            if status.is_redirection() {
                let target = text(&response, "location").unwrap_or_default();
                url = resolve(&url, &target).ok_or_else(|| {
                    self.source
                        .error(format!("{} redirects to no address", place(&url)))
                })?;
                continue;
            }
            let (position, end, total) = match status.as_u16() {
                200 => (0, None, number(&response, "content-length")),
                206 => {
                    let (sent, total) = content_range(&response).ok_or_else(|| {
                        self.source
                            .error(format!("{} answers with no range", place(&url)))
                    })?;
                    if sent != (start..end.min(total)) {
                        return Err(self.source.error(format!(
                            "{} sends bytes {sent:?} of {total}, asked for {:?}",
                            place(&url),
                            start..end
                        )));
                    }
                    (start, Some(sent.end), Some(total))
                }
                401 | 403 => {
                    return Err(self.source.error(format!(
                        "{} refuses access ({status}); a token in HF_TOKEN may help",
                        place(&url)
                    )));
                }
                _ => {
                    return Err(self
                        .source
                        .error(format!("{} answers {status}", place(&url))));
                }
            };
            return Ok(Stream {
                body: response.into_body(),
                position,
                end,
                total,
                commit: commit.filter(|commit| is_name(commit)),
                etag,
            });
        }
        Err(self
            .source
            .error(format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn read(&self, stream: &mut Stream, into: &mut [u8]) -> Result<()> {
        let mut reader = stream.body.as_reader();
        let read = reader.read_exact(into);
        stream.position += into.len() as u64;
        read.map_err(|error| self.broken(error))
    }

    /// Passes over bytes up to `position`: a whole file comes with what is not wanted.
    fn discard(&self, stream: &mut Stream, position: u64) -> Result<()> {
        let skipped = position - stream.position;
        let mut reader = stream.body.as_reader().take(skipped);
        let passed = io::copy(&mut reader, &mut io::sink()).map_err(|error| self.broken(error))?;
        stream.position = position;
        if passed < skipped {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// Appends bytes up to `end` to the file as they come, so that a later try can go on from there.
    fn copy(
        &self,
        stream: &mut Stream,
        end: u64,
        file: &mut File,
        path: &Path,
        progress: &ProgressBar,
    ) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut reader = stream.body.as_reader();
        while stream.position < end {
            let most = buffer.len().min((end - stream.position) as usize);
            let read = reader
                .read(&mut buffer[..most])
                .map_err(|error| self.broken(error))?;
            if read == 0 {
                return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
            }
            file.write_all(&buffer[..read]).map_err(Error::io(path))?;
            stream.position += read as u64;
            progress.inc(read as u64);
        }
        Ok(())
    }

    fn failure(&self, url: &Uri, error: ureq::Error) -> Error {
        let url = place(url);
        match error {
            ureq::Error::Timeout(_) => self.stalled(&url),
            error => self.source.error(While::new(url, error)),
        }
    }

    fn stalled(&self, who: &str) -> Error {
        let timeout = self.hub.timeout;
        self.source.error(format!(
            "{who} kept silent for {timeout:?}; try again, what came is kept"
        ))
    }

    fn broken(&self, error: io::Error) -> Error {
        let hub = place(&self.url);
        match ureq::Error::from(error) {
            ureq::Error::Timeout(_) => self.stalled(&hub),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.source.error(format!(
                    "{hub} sent fewer bytes than it announced; try again, what came is kept"
                ))
            }
            error => self.source.error(format!(
                "the transfer from {hub} broke off: {error}; try again, what came is kept"
            )),
        }
    }
}

/// An answer that is being read.
struct Stream {
    body: Body,
    /// Where in the file the next byte is.
    position: u64,
    /// Where the answer ends; none for the whole file.
    end: Option<u64>,
    /// How long the whole file is, where the server says so.
    total: Option<u64>,
    commit: Option<String>,
    etag: Option<String>,
}

impl Stream {
    /// What tells one version of the file from another, fit for a file name.
    fn identity(&self) -> Option<String> {
        let etag = self.etag.as_deref()?.chars();
        Some(etag.filter(char::is_ascii_alphanumeric).take(64).collect())
    }
}

/// What is wanted of a file, and the header of the file it will be kept in.
struct Plan {
    header: Vec<u8>,
    /// Byte ranges of the hub's file, in order.
    ranges: Vec<Range<u64>>,
}

impl Plan {
    fn new(source: &Source, arch: &Arch, header: &Metadata, data: u64) -> Result<Self> {
        let missing = |name: &str| source.error(format!("tensor `{name}` is missing"));
        let naming = Naming::detect(arch, |name| header.info(name).is_some())
            .map_err(|tried| missing(&tried.join("` or `")))?;
        let mut wanted = Vec::new();
        for (name, shape) in arch.convs().flat_map(|(_, conv)| naming.tensors(conv)) {
            let info = header.info(&name).ok_or_else(|| missing(&name))?;
            if info.shape != shape {
                return Err(source.error(format!(
                    "tensor `{name}` has shape {:?}, expected {shape:?}",
                    info.shape
                )));
            }
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(source.error(format!("tensor `{name}` is of type {:?}", info.dtype)));
            }
            wanted.push((name, info));
        }
        wanted.sort_by_key(|(_, info)| info.data_offsets);

        let mut entries = serde_json::Map::new();
        entries.insert(
            "__metadata__".to_owned(),
            serde_json::json!({
                (names::PREPROCESS): source.weights.preprocess.to_string(),
                "source": format!("{}@{}", source.repository, source.revision),
            }),
        );
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut offset = 0;
        for (name, info) in wanted {
            let (start, end) = info.data_offsets;
            entries.insert(
                name,
                serde_json::json!({
                    "dtype": info.dtype,
                    "shape": info.shape,
                    "data_offsets": [offset, offset + end - start],
                }),
            );
            offset += end - start;
            let (start, end) = (data + start as u64, data + end as u64);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
        // safetensors aligns the data to eight bytes with spaces.
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json);
        Ok(Self { header, ranges })
    }

    /// How long the kept file is.
    fn length(&self) -> u64 {
        let data: u64 = self
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        self.header.len() as u64 + data
    }
}

fn text(response: &Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    text(response, name)?.parse().ok()
}

/// `bytes 0-99/1234` → (0..100, 1234)
fn content_range(response: &Response<Body>) -> Option<(Range<u64>, u64)> {
    let value = text(response, "content-range")?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    Some((first.parse().ok()?..end, total.parse().ok()?))
}

/// Whether a commit can be the name of a folder.
fn is_name(commit: &str) -> bool {
    (1..=64).contains(&commit.len()) && commit.chars().all(|c| c.is_ascii_alphanumeric())
}

/// An address for messages: without its query, which may be a signature that gives access.
fn place(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let host = url.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{host}{}", url.path())
}

/// A redirect's target: an address, or a path on the same host.
fn resolve(base: &Uri, target: &str) -> Option<Uri> {
    let uri: Uri = target.parse().ok()?;
    if uri.scheme().is_some() {
        return Some(uri);
    }
    if !target.starts_with('/') || target.starts_with("//") {
        return None;
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(uri.path_and_query()?.clone());
    Uri::from_parts(parts).ok()
}

fn progress_bar(source: &Source, length: u64) -> ProgressBar {
    let template = "{msg} {bar:24} {binary_bytes}/{binary_total_bytes} {eta} left";
    let bar = crate::progress::bar(length, template);
    bar.set_message(source.repository.clone());
    bar
}

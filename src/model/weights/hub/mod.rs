//! ImageNet weights from the Hugging Face hub: the convolutions' bytes and no others.
//!
//! A VGG19 file is 574 MB, of which the convolutions are 80. The file's header is fetched first, then the ranges
//! that hold the wanted tensors; they are kept as one small safetensors file in the hub's cache, under the
//! revision they are from.
//!
//! What is kept has a checksum of its own, which each reading compares; a whole file of the hub's programs is compared
//! with the SHA-256 that it is named by. A damaged one is fetched afresh, once. What the hub sends is compared with a
//! hash where one is known of the kept part.

mod answer;
mod download;
mod plan;
mod source;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use sha2::{Digest, Sha256};

use self::download::Download;
use self::source::Source;
use crate::error::{Error, Result};
use crate::model::arch::Arch;
use crate::{bounds, files, progress};

/// The hub's file.
const FILE: &str = "model.safetensors";

/// Ours, beside it in the cache.
const KEPT_FILE: &str = "headstart-conv-base.safetensors";

/// The longest that anything may be waited for.
const MAX_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The BLAKE3 hash of what is kept of a repository, its tensors' bytes in the order of the hub's file: filled in when
/// it is first known. The hub gives a hash (SHA-256) of whole files alone, of which ranges are fetched here.
const KNOWN: [(&str, &str); 0] = [];

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
    deadline: Duration,
    expected: Option<String>,
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
            .field("deadline", &self.deadline)
            .field("expected", &self.expected)
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
            token: set("HF_TOKEN").or_else(|| {
                // Reading a pipe could wait for ever.
                home.token_path().is_file().then(|| home.token()).flatten()
            }),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.path().clone(), PathBuf::from),
            offline,
            timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(3600),
            expected: None,
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
    /// default is 30 seconds. Less than a kilobyte a second over that time counts as silence. A hub that is busy (429,
    /// 503) is asked again, three times, after as long as it says, if that is no longer than this.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long all of a fetch may take, waiting for another process that fetches the same included; the default
    /// is an hour, and the most a week.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the BLAKE3 hash, in hexadecimal, that the base's weights must have: that of their tensors' bytes in the
    /// order of the hub's file. Others are refused.
    pub fn expect_blake3(mut self, hash: impl Into<String>) -> Self {
        self.expected = Some(hash.into().to_lowercase());
        self
    }

    /// Gives `read` a file with the base's convolutions: from the cache, or fetched into it. A file of the cache that
    /// is damaged is fetched afresh, once.
    pub(super) fn load<T>(&self, arch: &Arch, read: impl Fn(&Path) -> Result<T>) -> Result<T> {
        self.check()?;
        let source = Source::of(arch)?;
        let cache = Cache::new(self.cache.clone()).repo(source.repo());
        let fetch = |afresh| Download::new(self, &source)?.run(&cache, arch, afresh);
        let Some(path) = source.cached(&cache) else {
            if self.offline {
                let place = cache.pointer_path(source.revision);
                let reason = format!("not in the cache ({}), and offline", place.display());
                return Err(source.error(reason));
            }
            return read(&fetch(false)?);
        };
        let outcome = self.verify(&path, &source).and_then(|()| read(&path));
        match outcome {
            Err(error) if is_damage(&error) && !self.offline => {
                progress::warn(&format!("{error}: it is fetched afresh"));
                read(&fetch(true)?)
            }
            outcome => outcome,
        }
    }

    fn check(&self) -> Result<()> {
        for (option, time) in [("timeout", self.timeout), ("deadline", self.deadline)] {
            if time.is_zero() || time > MAX_WAIT {
                let allowed = "more than nothing, and up to a week";
                return Err(Error::option(option, format!("{time:?}"), allowed));
            }
        }
        match &self.expected {
            Some(hash) if blake3::Hash::from_hex(hash).is_err() => {
                let allowed = "64 hexadecimal digits";
                Err(Error::option("expect_blake3", hash, allowed))
            }
            _ => Ok(()),
        }
    }

    /// The hash that the weights must have, if it is known.
    fn expected(&self, source: &Source) -> Option<String> {
        let known = KNOWN.iter().find(|(id, _)| *id == source.weights.id);
        let own = self.expected.clone();
        own.or_else(|| known.map(|(_, hash)| (*hash).to_owned()))
    }

    /// Compares a file of the cache with the hash in its name, where the hub's own programs gave it one, or with the
    /// one that is known of it. Our own files have a checksum, which reading them compares.
    fn verify(&self, path: &Path, source: &Source) -> Result<()> {
        let damaged = |reason: String| Error::WeightFile {
            path: path.to_owned(),
            source: reason.into(),
        };
        let is_ours = path.ends_with(KEPT_FILE);
        if !is_ours && let Some(expected) = named_hash(path) {
            let found = sha256(path).map_err(Error::io(path))?;
            if found != expected {
                let reason =
                    format!("damaged: its SHA-256 is {found}, and its name says {expected}");
                return Err(damaged(reason));
            }
        }
        if let (true, Some(expected)) = (is_ours, self.expected(source)) {
            let found = hash_of_kept(path).map_err(Error::io(path))?;
            if found != expected {
                let reason = format!(
                    "the weights have the BLAKE3 hash {found}, where {expected} is expected"
                );
                return Err(damaged(reason));
            }
        }
        Ok(())
    }
}

/// Whether an error says that a file is not what it should be.
fn is_damage(error: &Error) -> bool {
    matches!(
        error,
        Error::WeightFile { .. } | Error::MissingTensor { .. } | Error::TensorShape { .. }
    )
}

/// The SHA-256 that a file of the cache is named by: the hub's programs keep `blobs/HASH` and link to it.
fn named_hash(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?;
    let is_hash = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| name.to_lowercase())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut files::open(path)?, &mut hasher)?;
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The BLAKE3 hash of a kept file's tensors.
fn hash_of_kept(path: &Path) -> io::Result<String> {
    let mut file = files::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let start = u64::from_le_bytes(length).min(bounds::HEADER) + 8;
    let end = file.metadata()?.len();
    hash_of_range(&mut file, start..end.max(start))
}

fn hash_of_range(file: &mut File, range: Range<u64>) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    file.seek(SeekFrom::Start(range.start))?;
    hasher.update_reader(Read::by_ref(file).take(range.end - range.start))?;
    Ok(hasher.finalize().to_hex().to_string())
}

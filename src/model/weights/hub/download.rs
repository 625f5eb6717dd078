//! One fetch of a file's convolutions, bounded in everything that the other side decides.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hf_hub::CacheRepo;
use indicatif::ProgressBar;
use safetensors::tensor::Metadata;
use ureq::http::Uri;
use ureq::{Agent, Timeout};

use super::answer::{self, Answer, Stream, place};
use super::plan::Plan;
use super::source::Source;
use super::{FILE, Hub, KEPT_FILE};
use crate::error::While;
use crate::error::{Error, Result};
use crate::model::arch::Arch;
use crate::{atomic_file, bounds, files, progress, tensor_file};

/// What is asked for first; timm's headers have 3 to 60 kB.
const FIRST_BYTES: u64 = 64 << 10;

/// How often a hub that is busy is asked again, and how long it is left alone before, unless it says so itself.
const RETRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Fewer bytes a second than this, over the time that the hub may keep silent, count as silence.
const LEAST_SPEED: f64 = 1000.0;

/// One fetch of a file's convolutions.
pub(super) struct Download<'a> {
    hub: &'a Hub,
    source: &'a Source,
    agent: Agent,
    url: Uri,
    /// When all of it has to be done.
    end: Instant,
}

impl<'a> Download<'a> {
    pub(super) fn new(hub: &'a Hub, source: &'a Source) -> Result<Self> {
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
            end: Instant::now() + hub.deadline,
        })
    }

    /// Fetches the file into the cache, unless another process does so meanwhile; `afresh` whatever is there.
    pub(super) fn run(&self, cache: &CacheRepo, arch: &Arch, afresh: bool) -> Result<PathBuf> {
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
        let lock = self.lock(&folder.join(format!("{KEPT_FILE}.lock")))?;
        let path = folder.join(KEPT_FILE);
        if path.is_file() && !afresh {
            return Ok(path);
        }
        let identity = stream.identity().unwrap_or("unknown".to_owned());
        let part = folder.join(format!("{KEPT_FILE}.{identity}.part"));
        let mut file = self.fetch(&plan, stream, &part)?;
        if let Err(error) = self.verify(&mut file, &plan) {
            // What is wrong is not gone on with.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        tensor_file::seal(&mut file, &plan.header)
            .and_then(|()| file.sync_all())
            .map_err(Error::io(&part))?;
        fs::rename(&part, &path).map_err(Error::io(&path))?;
        if commit != revision {
            self.write_ref(&folder, &commit)?;
        }
        drop(lock);
        Ok(path)
    }

    /// Waits for another process that fetches the same, and not for ever.
    fn lock(&self, path: &Path) -> Result<File> {
        let lock = files::open_own(path).map_err(Error::io(path))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let (repository, place) = (&self.source.repository, path.display());
            if Instant::now() >= self.end {
                return Err(self.source.error(format!(
                    "another process has been fetching it for {:?}; it holds {place}",
                    self.hub.deadline
                )));
            }
            if !told {
                let what = "waiting for another process that fetches";
                progress::warn(&format!("{what} {repository}; it holds {place}"));
                told = true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Notes which commit a branch stands for. The file is exchanged, and so no link is followed.
    fn write_ref(&self, folder: &Path, commit: &str) -> Result<()> {
        let Some(repository) = folder.parent().and_then(Path::parent) else {
            return Ok(());
        };
        let path = repository.join("refs").join(self.source.revision);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        atomic_file::write(&path, |file| file.write_all(commit.as_bytes()))
    }

    /// Reads the file's header and works out which bytes are wanted.
    fn plan(&self, stream: &mut Stream, arch: &Arch) -> Result<Plan> {
        let mut bytes = vec![0; 8];
        self.read(stream, &mut bytes)?;
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        if length > bounds::HEADER {
            let found = match files::kind(&bytes) {
                Some(kind) => format!(" but {kind}"),
                None => format!(": it claims a header of {length} bytes"),
            };
            let reason = format!("not a safetensors file{found}");
            return Err(self.source.error(reason));
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
    fn fetch(&self, plan: &Plan, mut stream: Stream, part: &Path) -> Result<File> {
        let mut file = files::open_own(part).map_err(Error::io(part))?;
        let mut held = file.metadata().map_err(Error::io(part))?.len();
        let mut start = vec![0; plan.header.len()];
        // Without an etag nothing says that the file is still the one that was begun.
        let resumable = stream.etag.is_some()
            && held >= plan.header.len() as u64
            && file.read_exact(&mut start).is_ok()
            && start == plan.header
            && held <= plan.length();
        if !resumable {
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(&plan.header))
                .map_err(Error::io(part))?;
            held = plan.header.len() as u64;
        }
        file.seek(SeekFrom::Start(held)).map_err(Error::io(part))?;

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
        Ok(file)
    }

    /// Compares the kept bytes with what is known of them.
    fn verify(&self, file: &mut File, plan: &Plan) -> Result<()> {
        let Some(expected) = self.hub.expected(self.source) else {
            return Ok(());
        };
        let hash = super::hash_of_range(file, plan.header.len() as u64..plan.length());
        let found = hash.map_err(|error| self.source.error(error))?;
        if found == expected {
            return Ok(());
        }
        let reason =
            format!("the weights have the BLAKE3 hash {found}, where {expected} is expected");
        Err(self.source.error(reason))
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

    /// Asks for bytes from `start` to `end` (exclusive), again when the hub is busy. A server without ranges sends the
    /// whole file instead.
    fn open(&self, start: u64, end: u64) -> Result<Stream> {
        for attempt in 0.. {
            let answer = answer::ask(
                &self.agent,
                &self.url,
                self.hub.token.as_deref(),
                start..end,
                self.left()?,
            );
            let (status, wait) = match answer.map_err(|error| self.failure(error))? {
                Answer::File(stream) => return Ok(stream),
                Answer::Busy { status, wait } => (status, wait),
            };
            let busy = format!("{} answers {status}", place(&self.url));
            let wait = wait.unwrap_or(FIRST_WAIT * 2u32.pow(attempt));
            if attempt == RETRIES || wait > self.hub.timeout || wait > self.left()? {
                let reason = format!("{busy}, which means to try again later");
                return Err(self.source.error(reason));
            }
            progress::line(&format!("{busy}; asking again in {wait:?}"));
            std::thread::sleep(wait);
        }
        unreachable!("the last attempt returns")
    }

    /// The time that is left for all of it.
    fn left(&self) -> Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(self.overdue()),
            false => Ok(left),
        }
    }

    /// Reads some bytes, at a pace.
    fn some(&self, stream: &mut Stream, into: &mut [u8]) -> Result<usize> {
        let read = stream.body.as_reader().read(into);
        let read = read.map_err(|error| self.broken(error))?;
        if read == 0 && !into.is_empty() {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        stream.position += read as u64;
        stream.in_window += read as u64;
        let passed = stream.window.elapsed();
        if passed >= self.hub.timeout {
            let speed = stream.in_window as f64 / passed.as_secs_f64();
            if speed < LEAST_SPEED {
                return Err(self.source.error(format!(
                    "{} sent {} bytes in {passed:.1?}; try again, what came is kept",
                    place(&self.url),
                    stream.in_window
                )));
            }
            (stream.window, stream.in_window) = (Instant::now(), 0);
        }
        self.left()?;
        Ok(read)
    }

    fn read(&self, stream: &mut Stream, into: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            filled += self.some(stream, &mut into[filled..])?;
        }
        Ok(())
    }

    /// Passes over bytes up to `position`: a whole file comes with what is not wanted.
    fn discard(&self, stream: &mut Stream, position: u64) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while stream.position < position {
            let most = buffer.len().min((position - stream.position) as usize);
            self.some(stream, &mut buffer[..most])?;
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
        while stream.position < end {
            let most = buffer.len().min((end - stream.position) as usize);
            let read = self.some(stream, &mut buffer[..most])?;
            file.write_all(&buffer[..read]).map_err(Error::io(path))?;
            progress.inc(read as u64);
        }
        Ok(())
    }

    fn failure(&self, failure: answer::Failure) -> Error {
        match failure {
            answer::Failure::Refused(reason) => self.source.error(reason),
            answer::Failure::Request(_, ureq::Error::Timeout(Timeout::Global)) => self.overdue(),
            answer::Failure::Request(url, ureq::Error::Timeout(_)) => self.stalled(&url),
            answer::Failure::Request(url, error) => self.source.error(While::new(url, error)),
        }
    }

    fn stalled(&self, who: &str) -> Error {
        let timeout = self.hub.timeout;
        self.source.error(format!(
            "{who} kept silent for {timeout:?}; try again, what came is kept"
        ))
    }

    fn overdue(&self) -> Error {
        let deadline = self.hub.deadline;
        self.source.error(format!(
            "{} took longer than {deadline:?} in all; try again, what came is kept",
            place(&self.url)
        ))
    }

    fn broken(&self, error: io::Error) -> Error {
        let hub = place(&self.url);
        match ureq::Error::from(error) {
            ureq::Error::Timeout(Timeout::Global) => self.overdue(),
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

fn progress_bar(source: &Source, length: u64) -> ProgressBar {
    let template = "{msg} {bar:24} {binary_bytes}/{binary_total_bytes} {eta} left";
    let bar = progress::bar(length, template);
    let megabytes = length as f64 / 1e6;
    progress::line(&format!(
        "fetching {}: {megabytes:.1} MB",
        source.repository
    ));
    bar.set_message(source.repository.clone());
    bar
}

//! A question to the hub, and what it answers.

use std::ops::Range;
use std::time::{Duration, Instant};

use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

const MAX_REDIRECTS: usize = 5;

/// What the hub answers.
pub(super) enum Answer {
    File(Stream),
    /// It wants to be asked again, after a while that it may name.
    Busy {
        status: u16,
        wait: Option<Duration>,
    },
}

/// Why there is no answer.
pub(super) enum Failure {
    /// It does not answer with what was asked for.
    Refused(String),
    /// The request to this address failed.
    Request(String, ureq::Error),
}

/// An answer that is being read.
pub(super) struct Stream {
    pub(super) body: Body,
    /// Where in the file the next byte is.
    pub(super) position: u64,
    /// Where the answer ends; none for the whole file.
    pub(super) end: Option<u64>,
    /// How long the whole file is, where the server says so.
    pub(super) total: Option<u64>,
    pub(super) commit: Option<String>,
    pub(super) etag: Option<String>,
    /// Since when bytes are counted for the pace, and how many came.
    pub(super) window: Instant,
    pub(super) in_window: u64,
}

impl Stream {
    /// What tells one version of the file from another, fit for a file name.
    pub(super) fn identity(&self) -> Option<String> {
        let etag = self.etag.as_deref()?.chars();
        Some(etag.filter(char::is_ascii_alphanumeric).take(64).collect())
    }
}

/// Asks for bytes of a file, for at most so long, and follows redirects; the token is for the first address alone.
pub(super) fn ask(
    agent: &Agent,
    hub: &Uri,
    token: Option<&str>,
    wanted: Range<u64>,
    left: Duration,
) -> Result<Answer, Failure> {
    let range = format!("bytes={}-{}", wanted.start, wanted.end - 1);
    let mut url = hub.clone();
    let mut commit = None;
    let mut etag = None;
    for _ in 0..=MAX_REDIRECTS {
        let request = agent.get(&url).header(header::RANGE, &range);
        let mut request = request.config().timeout_global(Some(left)).build();
        let is_hub = (url.scheme(), url.authority()) == (hub.scheme(), hub.authority());
        if let Some(token) = token.filter(|_| is_hub) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.call();
        let response = response.map_err(|error| Failure::Request(place(&url), error))?;
        commit = commit.or_else(|| text(&response, "x-repo-commit"));
        etag = etag
            .or_else(|| text(&response, "x-linked-etag"))
            .or_else(|| text(&response, "etag"));
        let status = response.status();
        if status.is_redirection() {
            let target = text(&response, "location").unwrap_or_default();
            let nowhere = || Failure::Refused(format!("{} redirects to no address", place(&url)));
            url = resolve(&url, &target).ok_or_else(nowhere)?;
            continue;
        }
        if let 429 | 503 = status.as_u16() {
            let wait = text(&response, "retry-after").and_then(|seconds| seconds.parse().ok());
            return Ok(Answer::Busy {
                status: status.as_u16(),
                wait: wait.map(Duration::from_secs),
            });
        }
        let (position, end, total) = extent(&response, &url, &wanted).map_err(Failure::Refused)?;
        return Ok(Answer::File(Stream {
            body: response.into_body(),
            position,
            end,
            total,
            commit: commit.filter(|commit| is_name(commit)),
            etag,
            window: Instant::now(),
            in_window: 0,
        }));
    }
    Err(Failure::Refused(format!(
        "more than {MAX_REDIRECTS} redirects"
    )))
}

/// Where an answer begins and ends in the file, and how long that is.
fn extent(
    response: &Response<Body>,
    url: &Uri,
    wanted: &Range<u64>,
) -> Result<(u64, Option<u64>, Option<u64>), String> {
    let (who, status) = (place(url), response.status());
    match status.as_u16() {
        200 => Ok((0, None, number(response, "content-length"))),
        206 => {
            let (sent, total) =
                content_range(response).ok_or_else(|| format!("{who} answers with no range"))?;
            if sent != (wanted.start..wanted.end.min(total)) {
                return Err(format!(
                    "{who} sends bytes {sent:?} of {total}, asked for {wanted:?}"
                ));
            }
            Ok((wanted.start, Some(sent.end), Some(total)))
        }
        401 | 403 => Err(format!(
            "{who} refuses access ({status}); a token in HF_TOKEN may help"
        )),
        _ => Err(format!("{who} answers {status}")),
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
pub(super) fn place(url: &Uri) -> String {
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

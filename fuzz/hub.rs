//! A hub that answers anything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headstart::model::Hub;
use headstart::{ConvBase, Device, Weights};

/// What stands between two answers of a hub.
const NEXT: &[u8] = b"\n--next--\n";

/// A hub's answers, one a connection: a base that was asked for comes whole, or an error in bounded time.
pub fn hub(data: &[u8]) {
    let cache = super::folder();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut answers = split(data).into_iter();
            while let Ok((mut stream, _)) = listener.accept() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // A hub that was left does no harm.
                let _ = answer(&mut stream, answers.next().unwrap_or_default());
            }
        });
        let hub = Hub::from_env()
            .endpoint(format!("http://{address}"))
            .cache_dir(cache.path())
            .token(None)
            .offline(false)
            .timeout(Duration::from_millis(200))
            .deadline(Duration::from_secs(2));
        let outcome = ConvBase::vgg11(Weights::Hub(hub), &Device::Cpu);
        done.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(address);
        assert!(outcome.is_err(), "a few bytes cannot be 36 MB of weights");
    });
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    let mut rest = data;
    let mut parts = Vec::new();
    while let Some(at) = rest.windows(NEXT.len()).position(|window| window == NEXT) {
        parts.push(&rest[..at]);
        rest = &rest[at + NEXT.len()..];
    }
    parts.push(rest);
    parts
}

fn answer(stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut request = [0; 4096];
    let mut length = 0;
    while length < request.len() && !request[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut request[length..])? {
            0 => break,
            read => length += read,
        }
    }
    stream.write_all(answer)
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let commit = "x-repo-commit: 38b46049b490ec2bdb6d4d32b8354c74977f3347\r\netag: \"abc\"\r\n";
    let header =
        r#"{"features.0.weight":{"dtype":"F32","shape":[64,3,3,3],"data_offsets":[0,6912]}}"#;
    let body = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let range = |first: usize, body: &[u8], total: usize| {
        let last = first + body.len().max(1) - 1;
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {first}-{last}/{total}\r\n{commit}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let text = |answer: &str| answer.as_bytes().to_vec();
    vec![
        range(0, &body, body.len() + 6912),
        [
            range(0, &body[..8], 600),
            range(0, &body, 600),
            range(8, &body[8..], 600),
        ]
        .join(NEXT),
        [
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{commit}\r\n",
                body.len()
            )
            .as_bytes(),
            &body,
        ]
        .concat(),
        text("HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"),
        text("HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"),
        text("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nabcdefgh\r\n0\r\n\r\n"),
        text("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"),
    ]
}

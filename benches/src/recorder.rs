//! What the store alone can do: the calls of a run are recorded on their way to the server, and
//! sent again, one after the other, by a client that does nothing else.
//!
//! Ids and tokens are the clients' own, so the same calls on a fresh server do the same work.

use std::io::{BufRead as _, Result as IoResult};
use std::io::{BufReader, Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Stands between clients and a server and keeps a copy of each call of a script.
#[derive(Debug)]
pub struct Recorder {
    port: u16,
    calls: Arc<Mutex<Calls>>,
    task: tokio::task::JoinHandle<()>,
}

/// Calls in the order in which they came, as bytes.
pub type Calls = Vec<Vec<u8>>;

impl Recorder {
    /// Listens on a free port of the loopback, for the server on `server_port`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(server_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let calls: Arc<Mutex<Calls>> = Arc::default();
        let task = tokio::spawn({
            let calls = calls.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass_on(client, server_port, calls.clone()));
                }
            }
        });
        Ok(Self { port, calls, task })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The calls since the last time.
    #[must_use]
    pub fn take(&self) -> Calls {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(client: TcpStream, server_port: u16, calls: Arc<Mutex<Calls>>) -> IoResult<()> {
    let server = TcpStream::connect(("127.0.0.1", server_port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut open = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from_client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to_server.write_all(&buffer[..read]).await?;
        open.extend_from_slice(&buffer[..read]);
        while let Some(length) = command_length(&open) {
            let rest = open.split_off(length);
            let command = std::mem::replace(&mut open, rest);
            if command.windows(7).take(24).any(|part| part == b"EVALSHA") {
                calls.lock().unwrap_or_else(PoisonError::into_inner).push(command);
            }
        }
    }
}

/// The length of the command that the bytes begin with, once it is whole.
fn command_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let parts = number(bytes, &mut at, b'*')?;
    for _ in 0..parts {
        let length = number(bytes, &mut at, b'$')?;
        at += length + 2;
        if at > bytes.len() {
            return None;
        }
    }
    Some(at)
}

fn number(bytes: &[u8], at: &mut usize, sign: u8) -> Option<usize> {
    let rest = bytes.get(*at..)?.strip_prefix(&[sign])?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    *at += end + 3;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// Sends the calls, each after the answer to the one before it, and tells how long it took. An enqueue
/// says when it was sent, which ends it: as of now, or the server would make its records anew.
///
/// # Errors
/// If the server answers one with an error: then it did other work than what was recorded.
pub fn replay(port: u16, calls: &mut [Vec<u8>]) -> anyhow::Result<Duration> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::with_capacity(256 * 1024, stream.try_clone()?);
    let started = Instant::now();
    for call in calls {
        if let Some(sent_ms) = sent_ms(call) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            sent_ms.copy_from_slice(format!("{:013}", now.as_millis()).as_bytes());
        }
        stream.write_all(call)?;
        skip_answer(&mut answers)?;
    }
    Ok(started.elapsed())
}

/// The time that a call ends with, if it does: 13 digits.
fn sent_ms(call: &mut [u8]) -> Option<&mut [u8]> {
    let digits = call.len().checked_sub(15)?;
    let (before, last) = call.split_at_mut(digits);
    let is_time = before.ends_with(b"$13\r\n") && last[..13].iter().all(u8::is_ascii_digit);
    is_time.then_some(&mut last[..13])
}

fn skip_answer(answers: &mut BufReader<std::net::TcpStream>) -> anyhow::Result<()> {
    let mut line = Vec::new();
    let mut parts = 1_usize;
    while parts > 0 {
        parts -= 1;
        line.clear();
        answers.read_until(b'\n', &mut line)?;
        let text = std::str::from_utf8(&line)?.trim_end();
        let (sign, rest) = text.split_at_checked(1).context("the server hung up")?;
        match sign {
            "-" => anyhow::bail!("a recorded call was refused: {rest}"),
            "*" => parts += rest.parse::<usize>().unwrap_or(0),
            "$" => {
                if let Ok(length) = rest.parse::<u64>() {
                    std::io::copy(&mut answers.by_ref().take(length + 2), &mut std::io::sink())?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{command_length, sent_ms};

    #[test]
    fn only_a_call_that_ends_with_a_time_has_one() {
        let mut call = b"*2\r\n$1\r\na\r\n$13\r\n1795411470123\r\n".to_vec();
        assert_eq!(sent_ms(&mut call).as_deref(), Some(&b"1795411470123"[..]));
        for other in
            [&b"*1\r\n$13\r\n179541147012x\r\n"[..], b"*1\r\n$14\r\n01795411470123\r\n", b""]
        {
            assert_eq!(sent_ms(&mut other.to_vec()), None);
        }
    }

    #[test]
    fn a_command_ends_where_its_last_part_ends() {
        let two = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(command_length(two), Some(20));
        for cut in 0..20 {
            assert_eq!(command_length(&two[..cut]), None, "{cut} bytes of it");
        }
    }
}

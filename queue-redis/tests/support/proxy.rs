//! A proxy between a backend and its server that loses answers after the server has applied the
//! call, which no real network can be asked to do on purpose.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// What happens to the answer of the next script call.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// How many of its bytes still arrive before the connection breaks.
    pub after_bytes: usize,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    armed: Arc<Mutex<Option<Cut>>>,
    /// How many answers of script calls come through before the cut.
    passing: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to the socket.
    pub async fn start(server: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let armed = Arc::new(Mutex::new(None));
        let proxy = Self { address, armed, passing: Arc::default() };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Or small answers wait for acknowledgements.
                client.set_nodelay(true).expect("a socket");
                let (serving, server) = (serving.clone(), server.clone());
                tokio::spawn(async move {
                    let server = UnixStream::connect(server).await.expect("the server");
                    serving.forward(client, server).await;
                });
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Breaks the connection at the answer of the next script call.
    pub fn arm(&self, cut: Cut) {
        *self.armed.lock().expect("no panics") = Some(cut);
    }

    /// The same after some more answers of script calls.
    pub fn arm_after(&self, passing: usize, cut: Cut) {
        self.passing.store(passing, Ordering::SeqCst);
        self.arm(cut);
    }

    fn strikes(&self) -> Option<Cut> {
        let one_less = |passing: usize| passing.checked_sub(1);
        match self.passing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => None,
            Err(_) => self.armed.lock().expect("no panics").take(),
        }
    }

    /// Whether the fault has not happened yet.
    pub fn is_armed(&self) -> bool {
        self.armed.lock().expect("no panics").is_some()
    }

    /// Forwards until either side closes or a fault strikes.
    async fn forward(&self, mut client: TcpStream, mut server: UnixStream) {
        let mut names = VecDeque::new(); // of the commands that are not answered yet
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                count = client.read(&mut from_client) => {
                    let Ok(count @ 1..) = count else { return };
                    requests.extend_from_slice(&from_client[..count]);
                    while let Some(length) = frame_length(&requests) {
                        let frame: Vec<u8> = requests.drain(..length).collect();
                        names.push_back(frame.windows(7).any(|part| part == b"EVALSHA"));
                    }
                    if server.write_all(&from_client[..count]).await.is_err() { return }
                }
                count = server.read(&mut from_server) => {
                    let Ok(count @ 1..) = count else { return };
                    replies.extend_from_slice(&from_server[..count]);
                    while let Some(length) = frame_length(&replies) {
                        let frame: Vec<u8> = replies.drain(..length).collect();
                        let of_script = names.pop_front().unwrap_or(false);
                        let cut = if of_script { self.strikes() } else { None };
                        if let Some(cut) = cut {
                            let _ = client.write_all(&frame[..cut.after_bytes.min(length)]).await;
                            return;
                        }
                        if client.write_all(&frame).await.is_err() { return }
                    }
                }
            }
        }
    }
}

/// The length of the first RESP2 frame in `bytes`, if it is whole.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let head = line + 2;
    let number = || std::str::from_utf8(&bytes[1..line]).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => (bytes.len() >= head + length + 2).then_some(head + length + 2),
            Err(_) => Some(head),
        },
        b'*' => (0..number()?).try_fold(head, |end, _| Some(end + frame_length(&bytes[end..])?)),
        _ => Some(head),
    }
}

//! A proxy between a backend and its server that does what no real network or server can be asked
//! to do on purpose: it loses answers after the server has applied the call, answers in the
//! server's place, and goes silent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// What the command `INFO` looks like, with or without a section.
pub const INFO: &str = "\r\nINFO\r\n";

/// What happens to the answer of the next script call.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// How many of its bytes still arrive before the connection breaks.
    pub after_bytes: usize,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    counts: watch::Sender<Counts>,
}

#[derive(Debug, Default)]
struct Plan {
    armed: Option<Cut>,
    /// How many answers of script calls come through before the cut.
    passing: usize,
    /// Answers in the server's place to commands that have this word.
    canned: VecDeque<(String, Vec<u8>)>,
    /// Connections up to this number are silent: what they send is swallowed.
    silent: usize,
    /// Connections up to this number are closed.
    cut: usize,
    /// New connections are closed at once.
    shut: bool,
    /// Where new connections lead.
    server: PathBuf,
}

/// What has happened since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub opened: usize,
    pub closed: usize,
    /// Errors in answer to script calls, by the server.
    pub errors: usize,
    pub canned: usize,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to the socket.
    pub async fn start(server: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let plan = Arc::new(Mutex::new(Plan { server, ..Plan::default() }));
        let proxy = Self { address, plan, counts: watch::Sender::default() };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Or small answers wait for acknowledgements.
                client.set_nodelay(true).expect("a socket");
                serving.counts.send_modify(|counts| counts.opened += 1);
                let number = serving.counts().opened;
                let serving = serving.clone();
                tokio::spawn(async move {
                    let (is_shut, server) = {
                        let plan = serving.plan();
                        (plan.shut, plan.server.clone())
                    };
                    if let (false, Ok(server)) = (is_shut, UnixStream::connect(server).await) {
                        serving.forward(number, client, server).await;
                    }
                    serving.counts.send_modify(|counts| counts.closed += 1);
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
        self.plan().armed = Some(cut);
    }

    /// The same after some more answers of script calls.
    pub fn arm_after(&self, passing: usize, cut: Cut) {
        let mut plan = self.plan();
        (plan.passing, plan.armed) = (passing, Some(cut));
    }

    /// Whether the fault has not happened yet.
    pub fn is_armed(&self) -> bool {
        self.plan().armed.is_some()
    }

    /// Answers the next command that has this word; the server never sees it.
    pub fn answer(&self, word: &str, reply: impl Into<Vec<u8>>) {
        self.plan().canned.push_back((word.to_owned(), reply.into()));
    }

    /// Leaves all further commands to the server.
    pub fn answer_no_more(&self) {
        self.plan().canned.clear();
    }

    /// Answers the next script call with an error.
    pub fn refuse(&self, error: &str) {
        self.answer("EVALSHA", format!("-{error}\r\n"));
    }

    /// Lets every connection that is open now go silent, for ever.
    pub fn silence(&self) {
        let opened = self.counts().opened;
        self.plan().silent = opened;
    }

    /// Closes every connection that is open now and each new one at once, until opened again.
    pub fn shut(&self, shut: bool) {
        self.plan().shut = shut;
        self.counts.send_modify(|_| ());
    }

    /// Leads to another server from now on, as an address does after a fail-over, and closes every
    /// connection that is open now.
    pub fn lead_to(&self, server: PathBuf) {
        let opened = self.counts().opened;
        {
            let mut plan = self.plan();
            (plan.server, plan.cut) = (server, opened);
        }
        self.counts.send_modify(|_| ());
    }

    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Returns when it is so.
    pub async fn until(&self, is_so: impl FnMut(&Counts) -> bool) {
        self.counts.subscribe().wait_for(is_so).await.expect("the proxy lives");
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no panics")
    }

    fn strikes(&self) -> Option<Cut> {
        let mut plan = self.plan();
        match plan.passing.checked_sub(1) {
            Some(passing) => {
                plan.passing = passing;
                None
            }
            None => plan.armed.take(),
        }
    }

    fn canned(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut plan = self.plan();
        let (word, _) = plan.canned.front()?;
        if !frame.windows(word.len()).any(|part| part == word.as_bytes()) {
            return None;
        }
        let (_, reply) = plan.canned.pop_front()?;
        drop(plan);
        self.counts.send_modify(|counts| counts.canned += 1);
        Some(reply)
    }

    /// Forwards until either side closes or a fault strikes.
    async fn forward(&self, number: usize, mut client: TcpStream, mut server: UnixStream) {
        let mut pending = VecDeque::new();
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
        let mut changes = self.counts.subscribe();
        loop {
            tokio::select! {
                count = client.read(&mut from_client) => {
                    let Ok(count @ 1..) = count else { return };
                    if number <= self.plan().silent { continue }
                    requests.extend_from_slice(&from_client[..count]);
                    while let Some(length) = frame_length(&requests) {
                        let frame: Vec<u8> = requests.drain(..length).collect();
                        if let Some(reply) = self.canned(&frame) {
                            pending.push_back(Pending::Canned(reply));
                        } else {
                            let of_script = frame.windows(7).any(|part| part == b"EVALSHA");
                            pending.push_back(Pending::Asked { of_script });
                            if server.write_all(&frame).await.is_err() { return }
                        }
                    }
                }
                count = server.read(&mut from_server) => {
                    let Ok(count @ 1..) = count else { return };
                    replies.extend_from_slice(&from_server[..count]);
                }
                _ = changes.changed() => {
                    let plan = self.plan();
                    if plan.shut || number <= plan.cut { return }
                }
            }
            if number <= self.plan().silent {
                continue;
            }
            if !write_canned(&mut pending, &mut client).await {
                return;
            }
            while let Some(length) = frame_length(&replies) {
                let frame: Vec<u8> = replies.drain(..length).collect();
                let of_script =
                    matches!(pending.pop_front(), Some(Pending::Asked { of_script: true }));
                if of_script && frame[0] == b'-' {
                    self.counts.send_modify(|counts| counts.errors += 1);
                }
                let cut = if of_script { self.strikes() } else { None };
                let rest = cut.map_or(length, |cut| cut.after_bytes.min(length));
                if client.write_all(&frame[..rest]).await.is_err() || cut.is_some() {
                    return;
                }
                if !write_canned(&mut pending, &mut client).await {
                    return;
                }
            }
        }
    }
}

/// Gives the answers that are next in order; says whether the client is there.
async fn write_canned(pending: &mut VecDeque<Pending>, client: &mut TcpStream) -> bool {
    while let Some(Pending::Canned(reply)) = pending.front() {
        if client.write_all(reply).await.is_err() {
            return false;
        }
        pending.pop_front();
    }
    true
}

/// A command that is not answered yet.
enum Pending {
    Asked { of_script: bool },
    Canned(Vec<u8>),
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

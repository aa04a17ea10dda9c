//! Accepts connections and gives them to the router.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use super::{Shared, router};

/// How long a client may take to send the head of a request; also how long one may be silent
/// between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The most connections at a time: scrapers and probes need few.
const CONNECTIONS_MAX: usize = 64;

/// How long accepting pauses after an error such as a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening server. Dropping it closes it with all its connections.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens; with the port that the system chose, if it was asked to.
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens and serves.
    ///
    /// # Errors
    /// The system's reason why it cannot listen there.
    pub(crate) async fn start(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(serve(listener, shared)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let service = TowerToHyperService::new(router(shared));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Aborted with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, service.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(event = "http_accept_failed", %error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    permit: OwnedSemaphorePermit,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // What a client does wrong is its own concern.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
    drop(permit);
}

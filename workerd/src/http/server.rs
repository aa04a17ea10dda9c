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

/// How long a connection may last, whatever it does: one that reads nothing of its answers would
/// else take a place for ever, and a few of them all places, `/livez` included.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);

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
        Self::start_with(address, shared, CONNECTION_LIFE).await
    }

    async fn start_with(
        address: SocketAddr,
        shared: Arc<Shared>,
        life: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(serve(listener, shared, life)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, life: Duration) {
    let service = TowerToHyperService::new(router(shared));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Aborted with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, service.clone(), permit);
                connections.spawn(tokio::time::timeout(life, connection));
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

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn clients_that_never_read_do_not_keep_the_others_out() {
        let prometheus = PrometheusBuilder::new().build_recorder().handle();
        let address = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let shared = Shared::new(prometheus, crate::http::Names::default());
        let life = Duration::from_millis(200);
        let server = Server::start_with(address, shared, life).await.unwrap();
        let mut greedy = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").await.unwrap();
            greedy.push(stream);
        }
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        // Long before the time for a head is over.
        tokio::time::timeout(HEAD_TIMEOUT / 2, read).await.expect("an answer").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

//! The HTTP listener: it takes so many connections and no more, and none that says nothing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::tls::Accept;

/// The address of the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What one listener puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections; one more waits in the operating system's queue until another one ends.
    pub connections: usize,
    /// How long the head of a request may take, counted from the connection or the answer before it.
    pub head: Duration,
}

/// Serves until `stop` is cancelled and open requests are answered: over TLS, if `tls` says how, or in plain text.
pub async fn serve(
    mut listener: TcpListener,
    limits: Limits,
    tls: Option<Accept>,
    router: Router,
    stop: CancellationToken,
) {
    let free = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let open = GracefulShutdown::new();
    loop {
        let accepted = async {
            // Only a closed semaphore gives none, and nobody closes this one.
            let permit = Arc::clone(&free).acquire_owned().await.ok();
            // Axum's own, which waits and goes on when the process has too many files open.
            (permit, Listener::accept(&mut listener).await)
        };
        let (permit, (stream, peer)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(ConnectInfo(Peer(peer)))));
        let (http, watcher) = (http.clone(), open.watcher());
        let Some(tls) = tls.clone() else {
            let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(finish(connection, peer, permit));
            continue;
        };
        let stop = stop.clone();
        tokio::spawn(async move {
            let shaken = tokio::select! {
                () = stop.cancelled() => return,
                shaken = tls.accept(stream) => shaken,
            };
            match shaken {
                Ok(stream) => {
                    let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
                    finish(connection, peer, permit).await;
                }
                Err(error) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            }
        });
    }
    open.shutdown().await;
}

/// Waits for a connection's end, which makes room for another one.
async fn finish(
    connection: impl Future<Output = hyper::Result<()>>,
    peer: SocketAddr,
    _permit: Option<OwnedSemaphorePermit>,
) {
    if let Err(error) = connection.await {
        tracing::debug!(%peer, %error, "HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn served(connections: usize, head: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/healthz", get(|| async { "ok" }));
        let limits = Limits { connections, head };
        tokio::spawn(serve(listener, limits, None, router, CancellationToken::new()));
        address
    }

    async fn ask(stream: &mut TcpStream) -> String {
        let request = b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn one_connection_more_waits_for_another_to_end() {
        let address = served(1, Duration::from_secs(3600)).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let waiting = tokio::spawn(async move { ask(&mut second).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn half_a_request_is_cut_and_makes_room() {
        let address = served(2, Duration::from_millis(50)).await;
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        let silent = TcpStream::connect(address).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut third).await.starts_with("HTTP/1.1 200"));
        for mut cut in [half, silent] {
            assert_eq!(cut.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
    }
}

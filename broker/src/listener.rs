//! Accepts connections, and does what is due now and then.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{broker::BindError, connection, state::State, sys};

/// Connections the operating system keeps until they are accepted.
const BACKLOG: u32 = 4096;
/// How long accepting rests after an error, such as for want of file descriptors; doubled up to the second.
const REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Sockets beyond the limit of connections that may be open to be told so, as a share of the limit and at least.
const EXTRA_SHARE: usize = 8;
const EXTRA_LEAST: usize = 64;
/// How often sessions and wills are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How many such rounds there are between two rounds of `$SYS`.
const SYS_ROUNDS: u32 = 10;

/// Listens on an address.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit it on Linux; `serve` sees to the others.
        socket.set_nodelay(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BindError::Listen { address, source })
}

/// Accepts connections until the broker closes.
pub(crate) async fn accept(
    state: Arc<State>,
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) {
    let mut rest = REST;
    let mut closed = pin!(state.closing.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closed => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                rest = REST;
                let limit = state.config.max_connections;
                let open = state.sockets.fetch_add(1, Ordering::SeqCst);
                let socket = OpenSocket(Arc::clone(&state));
                if open >= limit + (limit / EXTRA_SHARE).max(EXTRA_LEAST) {
                    state.metrics.refuse("sockets");
                    continue;
                }
                if !cfg!(target_os = "linux") && stream.set_nodelay(true).is_err() {
                    continue;
                }
                let task = Arc::clone(&state);
                match tls.as_ref().map(|tls| Arc::clone(&tls.borrow())) {
                    None => state.tasks.spawn(async move {
                        let _socket = socket;
                        connection::serve(task, stream, address.into()).await;
                    }),
                    Some(tls) => state.tasks.spawn(async move {
                        let _socket = socket;
                        connection::serve_tls(task, tls, stream, address).await;
                    }),
                };
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                state.metrics.accept_errors.inc();
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
}

/// Counts a socket for as long as it is open.
struct OpenSocket(Arc<State>);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ends sessions and publishes wills that are due, and shows `$SYS` to who listens.
pub(crate) async fn keep_house(state: Arc<State>) {
    let mut rounds = interval(HOUSEKEEPING);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u32.. {
        tokio::select! {
            biased;
            () = state.closing.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let now = Instant::now();
        state.publish_wills(state.sessions.expire(now));
        if round % SYS_ROUNDS == 0 {
            state.retained.expire(now, &state.metrics);
            sys::publications(&state)
                .into_iter()
                .for_each(|publication| state.show(publication));
        }
    }
}

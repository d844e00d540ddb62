//! Connections: accepted, bounded, and drained at the end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::App;

/// Where connections come from.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    #[cfg(feature = "tls")]
    tls: Option<crate::Tls>,
}

impl From<TcpListener> for Listener {
    /// Plain HTTP.
    fn from(tcp: TcpListener) -> Self {
        Self {
            tcp,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Listener {
    /// HTTPS only.
    #[cfg(feature = "tls")]
    pub fn tls(tcp: TcpListener, tls: crate::Tls) -> Self {
        Self { tcp, tls: Some(tls) }
    }
}

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections at once; more wait in the operating system's queue.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Time in which a TLS handshake has to succeed, in which a request's head has to arrive, and
    /// for which an idle connection is kept.
    pub header_timeout: Duration,
    /// Time that requests in flight are given after the shutdown began.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_bytes: 64 << 10,
            headers: 100,
            header_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request in flight got its whole answer.
    Complete,
    /// Time ran out, or `abort` came first: what was left ended with an error.
    Aborted,
}

/// Serves until `shutdown` resolves, then lets requests in flight finish for as long as the limits
/// allow or until `abort` resolves.
///
/// Tokens leave at once: `TCP_NODELAY` is set on every connection.
pub async fn serve(
    listener: impl Into<Listener>,
    app: App,
    router: Router,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
    abort: impl Future<Output = ()>,
) -> Drained {
    let listener = listener.into();
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // hyper asks for room for at least this much.
        .max_buf_size(limits.header_bytes.max(8192))
        .max_headers(limits.headers);
    tokio::pin!(shutdown);
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let stream = tokio::select! {
            accepted = listener.tcp.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, or the peer is gone: neither is a reason to stop.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        set_options(&stream);
        let service = TowerToHyperService::new(router.clone());
        let (builder, watcher) = (builder.clone(), graceful.watcher());
        #[cfg(feature = "tls")]
        if let Some(tls) = listener.tls.clone() {
            let patience = limits.header_timeout;
            tokio::spawn(async move {
                match tokio::time::timeout(patience, tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let connection = builder.serve_connection(TokioIo::new(stream), service);
                        end(watcher.watch(connection).await);
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                }
                drop(permit);
            });
            continue;
        }
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = watcher.watch(connection);
        tokio::spawn(async move {
            end(connection.await);
            drop(permit);
        });
    }
    drop(listener);
    app.drain();
    tracing::info!(in_flight = app.in_flight(), "draining");
    let ended = tokio::select! {
        () = graceful.shutdown() => Drained::Complete,
        () = tokio::time::sleep(limits.drain) => Drained::Aborted,
        () = abort => Drained::Aborted,
    };
    if ended == Drained::Aborted {
        tracing::warn!(in_flight = app.in_flight(), "aborting what is left");
        abort_rest(&app, &permits, limits.connections).await;
    }
    ended
}

fn end(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

/// Closes the engine, which ends every stream with an error, and gives those a moment to leave.
async fn abort_rest(app: &App, permits: &Semaphore, connections: usize) {
    const MOMENT: Duration = Duration::from_secs(1);
    let closing = app.clone();
    let closed = tokio::task::spawn_blocking(move || closing.abort());
    let gone = async {
        let _ = closed.await;
        let _ = permits.acquire_many(u32::try_from(connections).unwrap_or(u32::MAX)).await;
    };
    let _ = tokio::time::timeout(MOMENT, gone).await;
}

fn set_options(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_do_not_wait_for_each_other_on_the_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, _client) = tokio::join!(listener.accept(), client);
        let stream = accepted.unwrap().0;
        assert!(!stream.nodelay().unwrap());
        set_options(&stream);
        assert!(stream.nodelay().unwrap());
    }
}

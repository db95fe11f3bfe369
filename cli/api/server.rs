//! The API server: HTTP over a Unix socket, in a thread of its own.
//!
//! Whoever can connect can start and stop districts, so only the daemon's own user may: the socket has mode 0600 from
//! its first moment, and the peer's user is checked again for each connection. What a peer sends is bounded in size
//! and time, and a peer that does not read holds up nobody but itself.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::mailbox::Mailbox;
use super::routes;

/// Connections at one time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;
/// How long a peer may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long answers that are under way may take once the server is to end.
const GRACE: Duration = Duration::from_secs(1);
/// Wait after a failed accept, which fails again at once where file descriptors have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Makes the socket of the API, mode 0600, in place of one that a dead daemon left. The caller holds the lock on the
/// state directory, so that no live daemon is behind the old one.
///
/// # Errors
/// The path cannot be used: too long, no such directory, something else is there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = path.symlink_metadata() {
        use std::os::unix::fs::FileTypeExt;
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is in the way"));
        }
        std::fs::remove_file(path)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file that bind makes the mode that the socket has then (net/unix/af_unix.c, unix_bind_bsd).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Answers requests at `listener`, which is nonblocking, by commands to the loop behind `mailbox`.
///
/// # Errors
/// No thread or no epoll can be had.
pub fn serve(listener: UnixListener, mailbox: Mailbox) -> io::Result<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::from_std(listener)?
    };
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || runtime.block_on(accept(listener, routes::router(mailbox), stopped)))?;
    Ok(Server { stop: Some(stop), thread: Some(thread) })
}

impl Server {
    /// Accepts no more, lets answers that are under way finish for a moment, and ends.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails only when the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by its hook.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::UnixListener, router: Router, mut stopped: oneshot::Receiver<()>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            _ = &mut stopped => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) if is_allowed(&stream) => {
                let router = router.clone();
                connections.spawn(async move {
                    converse(stream, router).await;
                    drop(slot);
                });
            }
            Ok(_) => {}
            Err(_) => sleep(ACCEPT_RETRY).await,
        }
        while connections.try_join_next().is_some() {}
    }
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

/// Whether the process at the other end belongs to this daemon's user, or to root, who could pass for any user anyway.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn converse(stream: UnixStream, router: Router) {
    // One request each: connecting costs nothing here, and a connection without a request then has a deadline always.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A peer that went away or spoke no HTTP is its own affair.
    let _ = connection.await;
}

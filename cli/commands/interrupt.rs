//! Ctrl-C and its relatives: the first asks for a clean end, the second ends the process.

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit;
use crate::api::client::Client;
use crate::api::name::Name;
use crate::terminal::output;

/// Whether a command is to end before its time.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    signalled: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

impl Interrupt {
    /// Whether a signal has come.
    pub fn has_come(&self) -> bool {
        self.signalled.load(Ordering::SeqCst)
    }

    /// Whether its districts are being stopped, by a signal or because nobody reads the output any more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Stops districts that have just been started, if they were to be stopped before there was anything to stop.
    pub fn catch_up(&self, client: &Client, names: &[Name]) {
        if self.is_stopping() {
            stop_all(client, names);
        }
    }
}

/// From now on the first of these signals calls `stop`, in a thread of its own, and the second one ends the process at
/// once, whatever the first has come to. The flag tells whether one has come.
pub fn handle(stop: impl FnOnce() + Send + 'static) -> io::Result<Arc<AtomicBool>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let signalled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&signalled);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stop = Some(stop);
        for _ in signals.forever() {
            flag.store(true, Ordering::SeqCst);
            match stop.take() {
                Some(stop) => {
                    // The terminal may be gone; that is what SIGHUP says.
                    let _ = writeln!(io::stderr(), "stopping; once more to end at once");
                    if std::thread::Builder::new().name("stop".to_owned()).spawn(stop).is_err() {
                        signal_hook::low_level::exit(i32::from(exit::INTERRUPTED));
                    }
                }
                None => signal_hook::low_level::exit(i32::from(exit::INTERRUPTED)),
            }
        }
    })?;
    Ok(signalled)
}

/// Stops these districts at the first signal, and when nobody reads the output any more; by a client of its own, since
/// the command's is busy.
pub fn stop_when_interrupted(client: &Client, names: Vec<Name>) -> Result<Interrupt> {
    let socket = client.socket().to_owned();
    let stopping = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopping);
    let stop = move || {
        flag.store(true, Ordering::SeqCst);
        if let Ok(client) = Client::connect(&socket) {
            stop_all(&client, &names);
        }
    };
    output::when_closed(stop.clone())?;
    Ok(Interrupt { signalled: handle(stop)?, stopping })
}

/// Stops all of them. One that cannot be stopped is not running, or the daemon is gone.
pub fn stop_all(client: &Client, names: &[Name]) {
    for name in names {
        let _ = client.stop(name);
    }
}

//! Ctrl-C and its relatives: the first asks for a clean end, the second ends the process.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit;

/// Whether a signal has come.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Whether one has come.
    pub fn has_come(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// From now on the first of these signals calls `stop`, in a thread of its own, and the second one ends the process at
/// once, whatever the first has come to.
pub fn handle(stop: impl FnOnce() + Send + 'static) -> io::Result<Interrupt> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stop = Some(stop);
        for _ in signals.forever() {
            flag.0.store(true, Ordering::SeqCst);
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
    Ok(interrupt)
}

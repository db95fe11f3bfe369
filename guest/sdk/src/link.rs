//! A key that finds its way back: by its name, whenever it breaks.

use alloc::string::String;
use core::time::Duration;

use district_protocol::status::Reason;

use crate::{Directory, Error, Key, Reply, Rng, time};

/// First and longest wait between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long a call tries where the program says nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls of whatever a name means at the time. The name is looked up in the bootstrap directory when it is first needed,
/// and again when the key behind it breaks: because its district restarted, or this one, or the broker did.
///
/// A call is repeated by itself when its target surely has not seen it, and never otherwise, unless it is made with
/// [`LinkCall::wait_at_least_once`]. Between two attempts it waits, each time twice as long and up to a limit, for a random
/// part of that time, so that many clients of one server do not come back at the same instant.
///
/// A server that restarts may have forgotten what it was told since its last checkpoint. Who needs to know asks
/// [`Self::reconnections`] before and after.
///
/// Messages carry no keys here: those are broken by the same events.
#[derive(Debug)]
pub struct Link {
    path: String,
    key: Option<Key>,
    /// Whether it ever had a key.
    connected: bool,
    reconnections: u64,
    backoff: (Duration, Duration),
    patience: Duration,
}

impl Link {
    /// A link to what `path` means in the bootstrap directory. Nothing is looked up yet.
    pub fn new(path: impl Into<String>) -> Link {
        let (path, key) = (path.into(), None);
        Link { path, key, connected: false, reconnections: 0, backoff: BACKOFF, patience: PATIENCE }
    }

    /// Waits at most `first` before the second attempt, and never longer than `longest`, instead of 10 ms and 1 s.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Link {
        self.backoff = (first, longest);
        self
    }

    /// Lets calls try for this long, instead of 30 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Link {
        self.patience = patience;
        self
    }

    /// The name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How often a key was found in place of one before. If it is the same before and after something, all of that was
    /// with one life of the server.
    pub fn reconnections(&self) -> u64 {
        self.reconnections
    }

    /// A call. Nothing is sent yet.
    pub fn call<'a>(&'a mut self, operation: u64, data: &'a [u8]) -> LinkCall<'a> {
        let patience = self.patience;
        LinkCall { link: self, operation, data, reply_capacity: None, patience }
    }

    /// The key as it is now, looked up if there is none.
    fn key(&mut self, deadline: u64) -> Result<&Key, Error> {
        let key = match self.key.take() {
            Some(key) => key,
            None => {
                // The look-up itself waits for the owner.
                let key = Directory::bootstrap().lookup_wait(&self.path, left(deadline))?;
                self.reconnections += u64::from(core::mem::replace(&mut self.connected, true));
                key
            }
        };
        Ok(self.key.insert(key))
    }
}

/// A call that is being made through a [`Link`].
#[derive(Debug)]
#[must_use = "nothing is sent before `wait` or `wait_at_least_once`"]
pub struct LinkCall<'a> {
    link: &'a mut Link,
    operation: u64,
    data: &'a [u8],
    reply_capacity: Option<u32>,
    patience: Duration,
}

impl LinkCall<'_> {
    /// Makes room for this many bytes of reply data instead of 4,096.
    pub fn reply_capacity(mut self, bytes: u32) -> Self {
        self.reply_capacity = Some(bytes);
        self
    }

    /// Tries for this long at most, look-ups and waits included. One attempt is made in any case.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes the call, at most once as far as its target can tell, and waits for the outcome.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the target may have acted; it is then for the program to decide. All others mean that it has
    /// not: at once those that say that the call or the name has to be changed, and [`Reason::Revoked`]; the last one
    /// that there was when the time is over.
    pub fn wait(self) -> Result<Reply, Error> {
        self.run(false)
    }

    /// Makes the call until there is an answer, also if the target may have acted on it before: for what can be done twice.
    ///
    /// # Errors
    /// As for [`Self::wait`], but after none of them is it known how often the target has acted.
    pub fn wait_at_least_once(self) -> Result<Reply, Error> {
        self.run(true)
    }

    fn run(mut self, at_least_once: bool) -> Result<Reply, Error> {
        let deadline = time::deadline(self.patience);
        let (first, longest) = self.link.backoff;
        let mut wait = time::nanoseconds(first);
        let mut uncertain = None;
        loop {
            let (error, looking_up) = match self.attempt(deadline) {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            if error.look_up_again() {
                self.link.key = None;
            }
            if !is_temporary(error, looking_up || at_least_once) {
                return Err(error);
            }
            if !looking_up && !error.retry_is_safe() {
                uncertain = Some(error);
            }
            let now = time::now();
            if now >= deadline {
                return Err(uncertain.unwrap_or(error));
            }
            let pause = wait / 2 + Rng.below(wait / 2 + 1);
            time::sleep(Duration::from_nanos(pause.min(deadline - now)));
            wait = wait.saturating_mul(2).min(time::nanoseconds(longest));
        }
    }

    /// One attempt; with an error, whether it is the look-up's.
    fn attempt(&mut self, deadline: u64) -> Result<Reply, (Error, bool)> {
        let key = self.link.key(deadline).map_err(|error| (error, true))?;
        let mut call = key.call(self.operation, self.data).timeout(left(deadline));
        if let Some(bytes) = self.reply_capacity {
            call = call.reply_capacity(bytes);
        }
        call.wait().map_err(|error| (error, false))
    }
}

/// Time until `deadline`, and a little if it is over.
fn left(deadline: u64) -> Duration {
    Duration::from_nanos(deadline.saturating_sub(time::now()).max(1_000_000))
}

/// Whether to try again. `repeatable`: also if the target may have acted.
fn is_temporary(error: Error, repeatable: bool) -> bool {
    match error {
        Error::Broken(reason) | Error::NotDelivered(reason) => reason != Reason::Revoked,
        Error::Unknown(reason) => repeatable && reason != Reason::Revoked,
        Error::NotReady | Error::Quota(_) | Error::WouldBlock => true,
        _ => false,
    }
}

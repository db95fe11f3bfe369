//! Work on files that takes longer than the event loop may: each job is a thread, and what it has found out comes back as
//! something for the event loop to do.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::event_loop::EventLoop;
use super::requests::refusal;
use crate::api::command::Reply;
use crate::api::refusal::{Refusal, RefusalKind};

/// Jobs that may be under way at once; they share one disk and few processors.
const JOBS_MAX: usize = 32;

/// What the event loop does when a job is done.
pub type Then = Box<dyn FnOnce(&mut EventLoop) + Send>;

/// The files of one district's memory: whoever changes or reads many of them holds this. Whoever changes them counts it.
pub type FileLock = Arc<Mutex<u64>>;

/// Waits until nobody else is at the files.
pub fn lock(files: &FileLock) -> MutexGuard<'_, u64> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files, if nobody else is at them: for the event loop, which waits for no job.
pub fn try_lock(files: &FileLock) -> Option<MutexGuard<'_, u64>> {
    match files.try_lock() {
        Ok(lock) => Some(lock),
        Err(TryLockError::Poisoned(lock)) => Some(lock.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// The jobs under way.
pub struct Jobs {
    sender: Sender<Then>,
    done: Receiver<Then>,
    event: Arc<EventFd>,
    count: usize,
}

/// A job's way to tell the event loop something before it is done.
#[derive(Clone)]
pub struct Teller {
    sender: Sender<Then>,
    event: Arc<EventFd>,
}

impl Teller {
    /// Has the event loop do something soon.
    pub fn tell(&self, then: Then) {
        // Fails only when the event loop is over.
        let _ = self.sender.send(then);
        let _ = self.event.write(1);
    }
}

impl Jobs {
    /// None yet.
    pub fn new() -> io::Result<Jobs> {
        let (sender, done) = channel();
        let event = Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        Ok(Jobs { sender, done, event, count: 0 })
    }

    /// Readable when the event loop has something to do.
    pub fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Whether any is under way.
    pub fn are_under_way(&self) -> bool {
        self.count > 0
    }

    /// Whether no further one can be begun now.
    pub fn are_many(&self) -> bool {
        self.count >= JOBS_MAX
    }

    /// Begins a job.
    ///
    /// # Errors
    /// Too many are under way, or no thread can be had.
    pub fn begin(&mut self, job: impl FnOnce(&Teller) -> Then + Send + 'static) -> io::Result<()> {
        if self.are_many() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{JOBS_MAX} jobs are under way already")));
        }
        let teller = Teller { sender: self.sender.clone(), event: Arc::clone(&self.event) };
        std::thread::Builder::new().name("files".into()).spawn(move || {
            // A job that panics is over, too.
            let then = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&teller)));
            teller.tell(Box::new(move |event_loop| {
                event_loop.jobs.count -= 1;
                match then {
                    Ok(then) => then(event_loop),
                    Err(_) => log::error!("a job has panicked"),
                }
            }));
        })?;
        self.count += 1;
        Ok(())
    }

    /// What the event loop is to do.
    pub fn take(&self) -> Vec<Then> {
        let _ = self.event.read();
        self.done.try_iter().collect()
    }
}

impl EventLoop {
    /// Does `work` in a job, then `then` in the event loop with what came of it. If no job can be begun, that is the answer.
    pub fn job<T: Send + 'static, W: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        work: impl FnOnce(&Teller) -> W + Send + 'static,
        then: impl FnOnce(&mut EventLoop, W, Reply<T>) + Send + 'static,
    ) {
        // Shared, so that it is there, too, if no job can be begun.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let take = |reply: &Mutex<Option<Reply<T>>>| reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        let for_job = Arc::clone(&reply);
        let begun = self.jobs.begin(move |teller| {
            let found = work(teller);
            Box::new(move |event_loop: &mut EventLoop| {
                if let Some(reply) = take(&for_job) {
                    then(event_loop, found, reply);
                }
            }) as Then
        });
        if let Err(error) = begun
            && let Some(reply) = take(&reply)
        {
            let refusal = Refusal::new(RefusalKind::Busy, format!("it cannot be done now: {error}"));
            reply.send(Err(refusal.remedy("try again later")));
        }
    }

    /// Answers with what `work` finds, in a job.
    pub fn files_job<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        work: impl FnOnce(&Teller) -> anyhow::Result<T> + Send + 'static,
    ) {
        self.job(reply, work, |_, found, reply| reply.send(found.map_err(refusal)));
    }
}

//! Work on files that takes longer than the event loop may: each job is a thread, and what it has found out comes back as
//! something for the event loop to do. Commits, which each start needs one of, have a thread together, and with them what
//! must come before them: they are short where the disk is quick, and never refused.

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

/// What a thread does for the event loop.
type Work = Box<dyn FnOnce() -> Then + Send>;

/// The jobs under way.
pub struct Jobs {
    teller: Teller,
    done: Receiver<Then>,
    count: usize,
    commits: Sender<Work>,
    /// Commits under way and waiting.
    commit_count: usize,
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

    /// Has the event loop do what comes of some work, `after` this. Work that panics is over, too.
    fn tell_result(&self, work: impl FnOnce() -> Then, after: fn(&mut EventLoop)) {
        let then = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        self.tell(Box::new(move |event_loop| {
            after(event_loop);
            match then {
                Ok(then) => then(event_loop),
                Err(_) => log::error!("a job has panicked"),
            }
        }));
    }
}

impl Jobs {
    /// None yet.
    pub fn new() -> io::Result<Jobs> {
        let (sender, done) = channel();
        let teller = Teller { sender, event: Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?) };
        let (commits, waiting) = channel::<Work>();
        let results = teller.clone();
        // It ends with the event loop.
        std::thread::Builder::new().name("commits".into()).spawn(move || {
            for work in waiting {
                results.tell_result(work, |event_loop| event_loop.jobs.commit_count -= 1);
            }
        })?;
        Ok(Jobs { teller, done, count: 0, commits, commit_count: 0 })
    }

    /// Readable when the event loop has something to do.
    pub fn as_raw_fd(&self) -> RawFd {
        self.teller.event.as_raw_fd()
    }

    /// Whether any is under way.
    pub fn are_under_way(&self) -> bool {
        self.count + self.commit_count > 0
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
        let teller = self.teller.clone();
        std::thread::Builder::new().name("files".into()).spawn(move || {
            teller.tell_result(|| job(&teller), |event_loop| event_loop.jobs.count -= 1);
        })?;
        self.count += 1;
        Ok(())
    }

    /// Begins to make something durable, once what was to be made durable before is.
    pub fn commit(&mut self, work: impl FnOnce(&Teller) -> Then + Send + 'static) {
        self.commit_count += 1;
        let teller = self.teller.clone();
        // Its thread ends only when this sender does.
        let _ = self.commits.send(Box::new(move || work(&teller)));
    }

    /// What the event loop is to do.
    pub fn take(&self) -> Vec<Then> {
        let _ = self.teller.event.read();
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

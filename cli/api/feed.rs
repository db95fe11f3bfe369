//! Events on their way from the event loop to one reader, who may be slow, gone or hostile. Never makes the loop wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::event::{Event, EventKind};
use super::name::Name;

/// Events that wait for one reader before others are left out.
pub const FEED_CAPACITY: usize = 1024;

/// What a reader wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Events of these districts; empty: of all, of those too that do not exist yet.
    pub districts: Vec<Name>,
    /// Whether log lines are wanted.
    pub logs: bool,
    /// Whether anything else is wanted.
    pub changes: bool,
}

impl Filter {
    /// Whether the reader wants this event.
    pub fn wants(&self, event: &Event) -> bool {
        let sort = if event.kind == EventKind::Log { self.logs } else { self.changes };
        sort && match &event.district {
            Some(name) => self.districts.is_empty() || self.districts.contains(name),
            None => true,
        }
    }
}

/// The event loop's end. Dropping it ends the reader's stream.
#[derive(Debug)]
pub struct Feed {
    filter: Filter,
    sender: mpsc::Sender<Event>,
    left_out: Arc<AtomicU64>,
}

/// The reader's end.
#[derive(Debug)]
pub struct FeedReader {
    receiver: mpsc::Receiver<Event>,
    left_out: Arc<AtomicU64>,
}

/// A feed for a reader with these wishes.
pub fn feed(filter: Filter) -> (Feed, FeedReader) {
    let (sender, receiver) = mpsc::channel(FEED_CAPACITY);
    let left_out = Arc::new(AtomicU64::new(0));
    (Feed { filter, sender, left_out: Arc::clone(&left_out) }, FeedReader { receiver, left_out })
}

impl Feed {
    /// What the reader wants.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Passes the event on if the reader wants it and has room, and counts it if there is no room. Returns false when
    /// the reader is gone: then the feed is to be dropped.
    pub fn offer(&self, event: &Event) -> bool {
        if !self.filter.wants(event) {
            return !self.sender.is_closed();
        }
        // Only this side adds to the count and only at the end of the stream does the reader take it, so between the
        // two operations nothing is lost.
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            match self.sender.try_send(Event::dropped(left_out)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.left_out.store(left_out + 1, Ordering::Relaxed);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.sender.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.left_out.store(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl FeedReader {
    /// The next event, or the count of those that were left out, or the end of the stream.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.receiver.poll_recv(context) {
            // The loop's end is gone: what it left out last has not been reported yet.
            Poll::Ready(None) => match self.left_out.swap(0, Ordering::Relaxed) {
                0 => Poll::Ready(None),
                count => Poll::Ready(Some(Event::dropped(count))),
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::State;
    use super::*;
    use std::task::Waker;

    fn event(name: &str, kind: EventKind, text: &str) -> Event {
        Event::now(kind, Name::new(name).unwrap(), 1, State::Running, text)
    }

    fn everything() -> Filter {
        Filter { districts: Vec::new(), logs: true, changes: true }
    }

    fn read_all(reader: &mut FeedReader) -> Vec<Event> {
        let mut context = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(event)) = reader.poll_next(&mut context) {
            all.push(event);
        }
        all
    }

    #[test]
    fn a_slow_reader_loses_the_newest_and_is_told_how_many_where() {
        let (feed, mut reader) = feed(everything());
        for index in 0..FEED_CAPACITY + 7 {
            assert!(feed.offer(&event("a", EventKind::Log, &index.to_string())));
        }
        let first = read_all(&mut reader);
        assert_eq!(first.len(), FEED_CAPACITY);
        assert_eq!(first[FEED_CAPACITY - 1].text, (FEED_CAPACITY - 1).to_string());

        assert!(feed.offer(&event("a", EventKind::Log, "later")));
        let second = read_all(&mut reader);
        assert_eq!(second[0].kind, EventKind::Dropped);
        assert!(second[0].text.starts_with("7 lines were left out"), "{}", second[0].text);
        assert_eq!(second[1].text, "later");
    }

    #[test]
    fn what_was_left_out_last_is_told_at_the_end() {
        let (feed, mut reader) = feed(everything());
        for _ in 0..FEED_CAPACITY + 1 {
            feed.offer(&event("a", EventKind::Log, ""));
        }
        drop(feed);
        let all = read_all(&mut reader);
        assert_eq!(all.len(), FEED_CAPACITY + 1);
        assert_eq!(all[FEED_CAPACITY].kind, EventKind::Dropped);
    }

    #[test]
    fn a_reader_gets_what_it_asked_for() {
        let (feed, mut reader) = feed(Filter { districts: vec![Name::new("a").unwrap()], logs: false, changes: true });
        feed.offer(&event("a", EventKind::Log, "no"));
        feed.offer(&event("b", EventKind::Started, "no"));
        feed.offer(&event("a", EventKind::Started, "yes"));
        let all = read_all(&mut reader);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].text, "yes");
    }

    #[test]
    fn the_loop_learns_that_a_reader_is_gone_even_from_what_it_does_not_want() {
        let (feed, reader) = feed(Filter { districts: Vec::new(), logs: false, changes: true });
        drop(reader);
        assert!(!feed.offer(&event("a", EventKind::Log, "")));
        assert!(!feed.offer(&event("a", EventKind::Started, "")));
    }
}

//! Events as the body of an HTTP answer: one JSON document a line.

use hyper::body::{Body, Bytes, Frame};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::event::Event;
use super::feed::FeedReader;

/// Bytes after which a piece of the body is sent off, however many events wait.
const PIECE: usize = 64 << 10;

/// The body: what was there already, then what comes.
#[derive(Debug)]
pub struct EventBody {
    past: VecDeque<Event>,
    reader: Option<FeedReader>,
}

impl EventBody {
    /// A body of these events, and then those that come through `reader` until the feed's other end is dropped.
    pub fn new(past: Vec<Event>, reader: Option<FeedReader>) -> EventBody {
        EventBody { past: past.into(), reader }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(event) = self.past.pop_front() {
            return Poll::Ready(Some(event));
        }
        match &mut self.reader {
            Some(reader) => reader.poll_next(context),
            None => Poll::Ready(None),
        }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut piece = Vec::new();
        while piece.len() < PIECE {
            match self.poll_event(context) {
                Poll::Ready(Some(event)) => {
                    // Strings and numbers only: this cannot fail, and if it did, one event would be missing.
                    if let Ok(line) = serde_json::to_vec(&event) {
                        piece.extend_from_slice(&line);
                        piece.push(b'\n');
                    }
                }
                Poll::Ready(None) if piece.is_empty() => return Poll::Ready(None),
                Poll::Pending if piece.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
    }
}

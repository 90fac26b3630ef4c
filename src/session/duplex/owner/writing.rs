//! Sending frames.

use std::sync::Arc;

use super::Owner;
use super::calls::Waiting;
use super::connection::Live;
use crate::contain::contain;
use crate::session::SessionError;
use crate::session::duplex::inbox::Inbox;
use crate::session::duplex::shared::{Frame, count};
use crate::session::error::Kind;

/// A frame to be written. Dropped instead, it tells who waits for the answer.
pub(in super::super) struct Sending {
    frame: Option<Frame>,
    waiter: Option<(u64, Arc<Inbox>)>,
    /// The connection that it is for; `None`: whichever there is.
    connection: Option<u64>,
    is_answer: bool,
}

impl Sending {
    /// For this connection; `None`: for whichever there is.
    pub(in super::super) fn new(frame: Frame, connection: Option<u64>) -> Self {
        Self { frame: Some(frame), waiter: None, connection, is_answer: false }
    }

    /// The answers to it go there.
    pub(in super::super) fn answered_to(mut self, id: u64, inbox: Arc<Inbox>) -> Self {
        self.waiter = Some((id, inbox));
        self
    }

    /// It is the answer to a request of the peer's.
    pub(in super::super) fn answering(mut self) -> Self {
        self.is_answer = true;
        self
    }

    fn fail(mut self, error: SessionError) {
        if let Some((_, inbox)) = self.waiter.take() {
            let _ = contain(|| inbox.end(Some(error)));
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some((_, inbox)) = self.waiter.take() {
            let down = self.frame.as_ref().and_then(Frame::why_down);
            let _ = contain(|| inbox.end(Some(down.unwrap_or_else(|| Kind::Closed.into()))));
        }
    }
}

impl Owner {
    pub(in super::super) fn send(&mut self, mut sending: Sending) {
        let input_is_open = self.live.as_ref().is_some_and(|live| live.input_is_open);
        let for_any = sending.connection.is_none();
        let cannot = self.live.is_none() || self.closing.is_some() || for_any;
        if let Some(down) = self.shared.down().filter(|_| cannot) {
            return sending.fail(down.error());
        }
        let is_gone = |connection| connection != self.connection || self.live.is_none();
        let in_vain = !for_any && sending.waiter.is_some() && !input_is_open;
        if sending.connection.is_some_and(is_gone) || in_vain {
            let why = "the request was made on a connection that is gone".to_owned();
            if sending.waiter.is_none() {
                count(&self.shared.counts.dropped_answers);
            }
            return sending.fail(Kind::Lost { why }.into());
        }
        let is_answer = sending.is_answer;
        let (waiter, Some(frame)) = (sending.waiter.take(), sending.frame.take()) else { return };
        let id = waiter.as_ref().map(|(id, _)| *id);
        // What is not about this connection waits for what comes first on it; and on one whose peer
        // says no more, nothing new is begun.
        let waits = for_any && !self.live.as_ref().is_some_and(|l| l.is_greeted && l.input_is_open);
        let unsent = waits.then_some(self.next_place);
        if let Some((id, inbox)) = waiter {
            self.waiters.insert(id, Waiting { inbox, answers: 0, clock: None, unsent });
        }
        match unsent {
            None => {
                self.write(frame, is_answer);
                self.flush_soon();
            }
            Some(place) => {
                self.next_place += 1;
                self.pending.insert(place, (id, frame));
            }
        }
    }

    pub(super) fn write(&mut self, frame: Frame, is_answer: bool) {
        self.queue(frame.bytes(), frame.bytes().len());
        if let Some(live) = self.live.as_mut().filter(|_| is_answer) {
            live.answers.push_back(live.queued);
        }
        frame.on_its_way();
    }

    /// Queues a frame in the link, of which so many bytes are accounted for.
    pub(super) fn queue(&mut self, frame: &[u8], accounted: usize) {
        let Some(live) = &mut self.live else { return self.shared.written(accounted) };
        live.unwritten += accounted;
        live.queued += accounted as u64;
        count(&self.shared.counts.frames_written);
        if let Err(error) = live.link.queue(frame) {
            self.lost(format!("a frame could not be written: {error}"));
        }
    }

    /// Writes at once if nothing else waits to be done; else after it, in one go.
    fn flush_soon(&mut self) {
        // What is due may be all that is left.
        if self.local.local().queued() <= usize::from(self.flush_is_due) {
            self.flush();
        } else if !std::mem::replace(&mut self.flush_is_due, true) {
            self.local.call_soon(|owner| {
                owner.flush_is_due = false;
                owner.flush();
            });
        }
    }

    /// Watches the stream for what is wanted of it now. Says whether there is one still.
    pub(super) fn rewatch(&mut self) -> bool {
        match self.live.as_ref().map(Live::watch) {
            Some(Err(error)) => {
                self.lost(format!("the stream cannot be watched: {error}"));
                false
            }
            watched => watched.is_some(),
        }
    }

    pub(super) fn flush(&mut self) {
        let Some(live) = &mut self.live else { return };
        let left = match live.link.flush() {
            Ok(left) => left,
            Err(error) => return self.lost(format!("writing failed: {error}")),
        };
        let written = live.unwritten.saturating_sub(left);
        live.unwritten -= written;
        live.wants_to_write = left > 0;
        let so_far = live.queued - live.unwritten as u64;
        while live.answers.front().is_some_and(|end| *end <= so_far) {
            live.answers.pop_front();
        }
        self.shared.written(written);
        if !self.rewatch() {
            return;
        }
        if left == 0 {
            match self.closing {
                Some(_) => self.hang_up(),
                None => self.end_if_drained(),
            }
        }
    }
}

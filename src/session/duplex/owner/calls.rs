//! Our requests, and the answers to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Clock, Owner};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::session::duplex::Overflow;
use crate::session::duplex::inbox::{Inbox, Pushed};
use crate::session::duplex::invocation::Reply;
use crate::session::duplex::shared::count;
use crate::session::error::Kind;
use crate::session::{Outgoing, SessionError};

use super::writing::Sending;

/// A request of ours.
pub(super) struct Waiting {
    pub(super) inbox: Arc<Inbox>,
    pub(super) answers: u64,
    /// Until the next answer is late.
    pub(super) clock: Option<Clock>,
    /// Its place among what is pending.
    pub(super) unsent: Option<u64>,
}

impl Owner {
    pub(super) fn answer(&mut self, id: u64, value: Reply) {
        let Some(waiting) = self.waiters.get_mut(&id) else { return self.nobody_waits(id) };
        if !matches!(value, Reply::Progress(_)) {
            waiting.answers += 1;
            waiting.clock = None;
        }
        // What wakes the reader may be foreign code.
        let pushed = contain(|| waiting.inbox.push(value)).unwrap_or(Pushed::Fits);
        if pushed == Pushed::Fits {
            return;
        }
        match self.shared.limits.overflow {
            Overflow::Fail => {
                count(&self.shared.counts.overflows);
                self.give_up(id, Inbox::overflow);
            }
            Overflow::Pause => {
                if waiting.inbox.pause()
                    && let Some(live) = &mut self.live
                {
                    live.paused_for.insert(id);
                    self.rewatch();
                }
            }
        }
    }

    /// An answer and the end of its request: in one, unless there is no room for it.
    pub(super) fn last_answer(&mut self, id: u64, value: Reply) {
        let Some(waiting) = self.waiters.remove(&id) else { return self.nobody_waits(id) };
        if let Ok(Err(value)) = contain(|| waiting.inbox.push_last(value)) {
            self.waiters.insert(id, waiting);
            self.answer(id, value);
            self.finish(id, None);
        }
    }

    /// The peer says that there is no more. Where a failure has its end apart, that is awaited.
    pub(super) fn ended(&mut self, id: u64, error: Option<SessionError>) {
        if !self.waiters.contains_key(&id) {
            return self.nobody_waits(id);
        }
        let end_follows = error.is_some() && self.shared.protocol.ends_apart();
        if end_follows {
            if let Some(waiting) = self.waiters.get(&id) {
                let _ = contain(|| waiting.inbox.end(error));
            }
        } else {
            self.finish(id, error);
        }
    }

    pub(super) fn finish(&mut self, id: u64, error: Option<SessionError>) {
        if let Some(waiting) = self.waiters.remove(&id) {
            let _ = contain(|| waiting.inbox.end(error));
        }
    }

    /// The one request that the peer can be answering.
    pub(super) fn only_request(&self) -> Option<u64> {
        let mut sent = self.waiters.iter().filter(|(_, waiting)| waiting.unsent.is_none());
        sent.next().map(|(id, _)| *id).filter(|_| sent.next().is_none())
    }

    fn nobody_waits(&self, id: u64) {
        let counts = &self.shared.counts;
        count(if self.shared.was_given_out(id) { &counts.late } else { &counts.unknown });
    }

    /// Nobody waits for the answers any more. The session may have stopped reading for them.
    pub(in super::super) fn call_off(&mut self, id: u64, reads_on: bool) {
        self.give_up(id, |_| ());
        if reads_on {
            self.read_on(id);
        }
    }

    /// Nobody waits for the answers any more, who is told so by `end`. The request is not sent, or the
    /// peer is told.
    fn give_up(&mut self, id: u64, end: impl FnOnce(&Inbox)) {
        let Some(waiting) = self.waiters.remove(&id) else { return };
        match waiting.unsent {
            Some(place) => drop(self.pending.remove(&place)),
            None => self.tell_cancel(id),
        }
        let _ = contain(|| end(&waiting.inbox));
    }

    /// Whoever awaits the answer after so many wants to be told when it is late: a runtime need not have
    /// a clock.
    pub(in super::super) fn clock(
        &mut self,
        id: u64,
        answers: u64,
        late: Deadline,
        waited: Duration,
    ) {
        let Some(waiting) = self.waiters.get_mut(&id) else { return };
        if waiting.answers == answers {
            let error = move || Some(Kind::TimedOut { waited }.into());
            let expire = move |owner: &mut Self| owner.give_up(id, |inbox| inbox.end(error()));
            waiting.clock = Clock::new(&self.local, late, expire);
        }
    }

    /// Tells the peer that nobody waits, if the protocol has words for it.
    fn tell_cancel(&mut self, id: u64) {
        if self.live.is_some()
            && let Ok(frame) = self.shared.encode_in_any_case(&Outgoing::Cancel { id })
        {
            self.send(Sending::new(frame, None));
        }
    }

    /// A reader has caught up.
    pub(in super::super) fn read_on(&mut self, id: u64) {
        if let Some(live) = &mut self.live
            && live.paused_for.remove(&id)
            && !live.is_paused()
        {
            self.heard = Instant::now();
            if self.rewatch() {
                self.read(); // what a poller does not tell of: bytes that the link has read already
            }
        }
    }

    /// Tells those of our requests that there will be no answer.
    pub(super) fn fail(
        &mut self,
        which: impl Fn(&Waiting) -> bool,
        error: impl Fn() -> SessionError,
    ) {
        for (_, waiting) in self.waiters.extract_if(|_, waiting| which(waiting)) {
            let _ = contain(|| waiting.inbox.end(Some(error())));
        }
    }
}

//! Reading frames, and finding whom each concerns.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Owner;
use crate::contain::contain;
use crate::event_loop::Readiness;
use crate::session::Incoming;
use crate::session::duplex::shared::count;

/// So many reads in a turn, so that posts and timers are not starved.
const READS: usize = 16;

impl Owner {
    pub(super) fn ready(&mut self, ready: Readiness) {
        if ready.writable {
            self.flush();
        }
        if ready.readable {
            self.read();
        }
    }

    pub(super) fn read(&mut self) {
        let mut messages = Vec::new();
        for turn in 0..READS {
            let Some(live) = self.live.as_mut().filter(|live| !live.is_paused()) else { return };
            let shared = &self.shared;
            let mut frames = 0;
            let more = live.link.read(&mut |frame| {
                frames += 1;
                if let Err(malformed) = shared.protocol.decode(frame, &mut messages) {
                    messages.push(Incoming::Malformed(malformed));
                }
            });
            shared.counts.frames_read.fetch_add(frames, Ordering::Relaxed);
            if self.settings.silence.is_some() {
                self.heard = Instant::now();
            }
            for message in messages.drain(..) {
                if self.live.is_none() {
                    break; // what one message led to
                }
                self.hear(message);
            }
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.lost("the peer has closed it".to_owned());
                }
                Err(error) => return self.lost(error.to_string()),
            }
            if turn + 1 == READS {
                // The poller does not know of what the link has read already.
                self.local.call_soon(Self::read);
            }
        }
        self.flush(); // what reading has called for: the answer to a ping
    }

    fn hear(&mut self, message: Incoming) {
        match message {
            Incoming::Item { id, value } => self.answer(id, value),
            Incoming::Answer { id, value } => self.last_answer(id, value),
            Incoming::Failure { id: Some(id), error } => self.ended(id, Some(error.into())),
            Incoming::End { id } => self.ended(id, None),
            // Which request it is about can be told only if there is just one.
            Incoming::Failure { id: None, error } => match self.only_request() {
                Some(id) => self.ended(id, Some(error.into())),
                None => count(&self.shared.counts.unknown),
            },
            Incoming::Malformed(malformed) => {
                count(&self.shared.counts.malformed);
                if let Some(id) = malformed.answers()
                    && self.waiters.contains_key(&id)
                {
                    self.finish(id, Some(malformed.into()));
                }
            }
            Incoming::Request { id, within, method, params, meta } => {
                self.asked(id, within, method, params, meta);
            }
            Incoming::Cancel { id } => {
                if let Some(scope) = self.asked_as(&id) {
                    scope.call_off();
                }
            }
            Incoming::Notification { method, params, .. } => {
                let handlers = Rc::clone(&self.handlers);
                if contain(|| (handlers.notification)(method, params)).is_err() {
                    count(&self.shared.counts.panics);
                }
            }
            Incoming::Heartbeat => {}
        }
    }
}

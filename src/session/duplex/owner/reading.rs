//! Reading frames, and finding whom each concerns.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Owner;
use super::requests::Heard;
use crate::contain::contain;
use crate::event_loop::Readiness;
use crate::session::duplex::invocation::Reply;
use crate::session::duplex::invoker::Invoker;
use crate::session::duplex::request::Batch;
use crate::session::duplex::shared::count;
use crate::session::duplex::transport::Oversized;
use crate::session::error::Kind;
use crate::session::{Concern, Incoming, Notification};

/// So many reads in a turn, so that posts and timers are not starved.
const READS: usize = 16;

impl Owner {
    pub(super) fn ready(&mut self, ready: Readiness) {
        if ready.writable {
            self.flush();
        }
        match &self.live {
            Some(live) if ready.readable && !live.input_is_open => {
                self.lost("the peer has closed it, and does not listen".to_owned());
            }
            Some(_) if ready.readable => self.read(),
            _ => {}
        }
    }

    pub(super) fn read(&mut self) {
        let mut messages = Vec::new();
        for turn in 0..READS {
            let Some(live) = self.live.as_mut() else { return };
            if live.is_paused() || !live.input_is_open {
                return;
            }
            let shared = &self.shared;
            let mut frames = 0;
            let more = live.link.read(&mut |frame| {
                frames += 1;
                if let Err(malformed) = shared.protocol.decode(frame, &mut messages) {
                    messages.push(Incoming::Malformed(malformed));
                }
            });
            let oversized = live.link.take_oversized();
            shared.counts.frames_read.fetch_add(frames, Ordering::Relaxed);
            let settings = &self.settings;
            if settings.keep_alive_interval.is_some() || settings.keep_alive_timeout.is_some() {
                self.heard = Instant::now();
                live.is_pinged = false;
            }
            // First: what came after it may be the end of what it was a part of.
            oversized.iter().for_each(|frame| self.passed_over(frame));
            for message in messages.drain(..) {
                if self.live.is_none() {
                    break; // what one message led to
                }
                self.hear(message, None);
            }
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.input_ended();
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

    /// A frame that was over the limit. If it can be told whom it concerns, that request fails.
    fn passed_over(&mut self, frame: &Oversized) {
        count(&self.shared.counts.oversized);
        let (size, limit) = (frame.size, self.settings.link.max_message_size);
        let protocol = &self.shared.protocol;
        let answer = || protocol.answer_id(&frame.head, &frame.tail).map(Concern::Answer);
        match protocol.concerns(&frame.outline).or_else(answer) {
            Some(Concern::Answer(id)) => {
                self.ended(id, Some(Kind::TooLarge { size, limit }.into()));
            }
            Some(Concern::Request(id)) => self.asked_too_much(id, size, limit),
            None => {}
        }
    }

    pub(super) fn hear(&mut self, message: Incoming, batch: Option<&Arc<Batch>>) {
        match message {
            Incoming::Progress { id, value } => self.answer(id, Reply::Progress(value)),
            Incoming::Item { id, value } => self.answer(id, Reply::Item(value)),
            Incoming::Answer { id, value } => self.last_answer(id, Reply::Answer(value)),
            Incoming::Batch(messages) => self.batch(messages),
            Incoming::Failure { id: Some(id), error } => self.ended(id, Some(error.into())),
            Incoming::End { id } => self.ended(id, None),
            // Which request it is about can be told only if there is just one.
            Incoming::Failure { id: None, error } => match self.only_request() {
                Some(id) => self.ended(id, Some(error.into())),
                None => count(&self.shared.counts.unknown),
            },
            Incoming::Malformed(malformed) => {
                count(&self.shared.counts.malformed);
                self.refuse(&malformed, batch);
                if let Some(id) = malformed.answers()
                    && self.waiters.contains_key(&id)
                {
                    self.finish(id, Some(malformed.into()));
                }
            }
            Incoming::Request { id, within, method, params, meta } => {
                self.asked(Heard { id, within, method, params, meta }, batch);
            }
            Incoming::Cancel { id } => {
                if let Some(scope) = self.asked_as(&id) {
                    scope.call_off();
                }
            }
            Incoming::Notification { method, params, meta } => {
                let invoker = Invoker::on(Arc::clone(&self.shared), self.connection);
                let mut notification = Notification::new(method, params);
                notification.meta = meta;
                let tell = &self.handlers.notification;
                if contain(|| tell(&invoker, notification)).is_err() {
                    count(&self.shared.counts.panics);
                }
            }
            Incoming::Heartbeat => {}
        }
    }
}

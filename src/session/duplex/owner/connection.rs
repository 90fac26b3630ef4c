//! The stream that there is, and what it waits for.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Owner;
use crate::event_loop::{Interest, Source};
use crate::session::duplex::transport::Link;
use crate::words::Span;

pub(super) struct Live {
    pub(super) link: Box<dyn Link>,
    pub(super) since: Instant,
    pub(super) reader: Source<OwnedFd>,
    pub(super) writer: Option<Source<OwnedFd>>,
    /// Bytes of frames that were queued in the link and not written.
    pub(super) unwritten: usize,
    /// How many bytes have been queued so far, and at which of them each answer ends that is not
    /// written yet.
    pub(super) queued: u64,
    pub(super) answers: VecDeque<u64>,
    /// What comes first was said, and anybody may call.
    pub(super) is_greeted: bool,
    /// The peer may say more.
    pub(super) input_is_open: bool,
    /// It was asked for a sign of life since it was heard last.
    pub(super) is_pinged: bool,
    pub(super) wants_to_write: bool,
    /// The invocations whose inboxes are full, where that holds back all. Until each has room, nothing
    /// is read: one that catches up would let in more for the others.
    pub(super) paused_for: HashSet<u64>,
}

impl Live {
    pub(super) fn is_paused(&self) -> bool {
        !self.paused_for.is_empty()
    }

    /// Watches for what there is to do; and once the peer says no more, for whether it still listens.
    pub(super) fn watch(&self) -> io::Result<()> {
        let reads = !self.is_paused() && self.input_is_open;
        let idle = if self.input_is_open { Interest::NONE } else { Interest::HANG_UP };
        let writes = self.wants_to_write;
        match &self.writer {
            Some(writer) => {
                writer.modify(if writes { Interest::WRITABLE } else { idle })?;
                // Of a pipe that is read, the end looks like a hang-up.
                self.reader.modify(if reads { Interest::READABLE } else { Interest::NONE })
            }
            None => self.reader.modify(match (reads, writes) {
                (true, true) => Interest::BOTH,
                (true, false) => Interest::READABLE,
                (false, true) => Interest::WRITABLE,
                (false, false) => idle,
            }),
        }
    }
}

impl Owner {
    /// Takes in a stream that was made.
    pub(super) fn watch(&self, link: Box<dyn Link>) -> io::Result<Live> {
        let (reader, writer) = link.sources()?;
        let ready = |owner: &mut Self, _: &OwnedFd, ready| owner.ready(ready);
        let reader = self.local.add(reader, Interest::READABLE, ready)?;
        let writer =
            writer.map(|writer| self.local.add(writer, Interest::NONE, ready)).transpose()?;
        Ok(Live {
            link,
            since: Instant::now(),
            reader,
            writer,
            unwritten: 0,
            queued: 0,
            answers: VecDeque::new(),
            is_greeted: false,
            input_is_open: true,
            is_pinged: false,
            wants_to_write: false,
            paused_for: HashSet::new(),
        })
    }

    pub(super) fn heartbeat(&mut self, connection: u64) {
        let settings = Rc::clone(&self.settings);
        if let Some((every, frame)) = &settings.heartbeat
            && connection == self.connection
            && self.live.is_some()
        {
            self.queue(frame, 0);
            self.flush();
            self.local.call_later(*every, move |owner| owner.heartbeat(connection));
        }
    }

    /// Pings a peer that is silent, and gives up one that does not answer.
    pub(super) fn keep_alive(&mut self, connection: u64) {
        let (interval, timeout) =
            (self.settings.keep_alive_interval, self.settings.keep_alive_timeout);
        if interval.is_none() && timeout.is_none() {
            return;
        }
        let Some(live) = self.live.as_mut().filter(|_| connection == self.connection) else {
            return;
        };
        if live.is_paused() || !live.input_is_open {
            self.heard = Instant::now(); // nobody listens
            live.is_pinged = false;
        }
        let idle = self.heard.elapsed();
        let before_ping = interval.unwrap_or_default();
        let limit = before_ping.saturating_add(timeout.unwrap_or(KEEP_ALIVE_TIMEOUT));
        if idle >= limit {
            return self.lost(format!("nothing was heard of the peer for {}", Span(limit)));
        }
        if interval.is_some() && idle >= before_ping && !live.is_pinged {
            live.is_pinged = true;
            if !live.link.ping() {
                return; // on such a stream nobody can tell whether a peer has anything to say
            }
            self.flush();
        }
        let pinged = self.live.as_ref().is_none_or(|live| live.is_pinged);
        let next = if interval.is_some() && !pinged { before_ping } else { limit };
        let left = next.saturating_sub(idle).max(Duration::from_millis(1));
        self.local.call_later(left, move |owner| owner.keep_alive(connection));
    }
}

/// How long a peer has to answer a ping, if nothing else is said.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

//! The stream that there is, and what it waits for.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Owner;
use crate::event_loop::{Interest, Source};
use crate::session::duplex::transport::Link;

pub(super) struct Live {
    pub(super) link: Box<dyn Link>,
    pub(super) since: Instant,
    pub(super) reader: Source<OwnedFd>,
    pub(super) writer: Option<Source<OwnedFd>>,
    /// Bytes of frames that were queued in the link and not written.
    pub(super) unwritten: usize,
    pub(super) wants_to_write: bool,
    /// The invocations whose inboxes are full, where that holds back all. Until each has room, nothing
    /// is read: one that catches up would let in more for the others.
    pub(super) paused_for: HashSet<u64>,
}

impl Live {
    pub(super) fn is_paused(&self) -> bool {
        !self.paused_for.is_empty()
    }

    /// Watches for what there is to do.
    pub(super) fn watch(&self) -> io::Result<()> {
        let (wants_to_write, paused) = (self.wants_to_write, self.is_paused());
        let reads = if paused { Interest::NONE } else { Interest::READABLE };
        match &self.writer {
            Some(writer) => {
                writer.modify(if wants_to_write { Interest::WRITABLE } else { Interest::NONE })?;
                self.reader.modify(reads)
            }
            None => self.reader.modify(match (paused, wants_to_write) {
                (false, true) => Interest::BOTH,
                (true, true) => Interest::WRITABLE,
                (_, false) => reads,
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

    pub(super) fn watch_silence(&mut self, connection: u64, silence: Duration) {
        let Some(live) = self.live.as_ref().filter(|_| connection == self.connection) else {
            return;
        };
        if live.is_paused() {
            self.heard = Instant::now(); // nobody listens
        }
        match silence.checked_sub(self.heard.elapsed()) {
            Some(left) if !left.is_zero() => {
                let again = move |owner: &mut Self| owner.watch_silence(connection, silence);
                self.local.call_later(left, again);
            }
            _ => self.lost(format!("nothing was heard of the peer for {silence:?}")),
        }
    }
}

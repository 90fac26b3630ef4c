//! The socket of a kernel: what is sent, what is read, and how it is opened again.

use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::probes::Probes;
use super::{End, Kernel};
use crate::deadline::Deadline;
use crate::interpreter::jupyter::wire::{Channel, Empty, Frame, Framing, Request};
use crate::session::SessionError;
use crate::session::websocket::Heard;

/// The first pause between two tries to connect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What the socket has.
pub(super) enum Word {
    Frame(Frame),
    /// A ping or a pong: somebody is there.
    Sign,
    /// By then.
    Nothing,
}

/// There is no connection, and why.
pub(super) struct Lost(pub(super) String);

impl Lost {
    pub(super) const NONE: fn() -> Self = || Self("there is no connection".to_owned());
}

impl From<SessionError> for Lost {
    fn from(error: SessionError) -> Self {
        Self(super::super::with_causes(&error))
    }
}

impl Kernel {
    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn number_of(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&*self.client)?.strip_prefix('_')?.parse().ok()
    }

    pub(super) fn framing(&self) -> Framing {
        self.socket.as_ref().map_or(Framing::V1, |(_, framing)| *framing)
    }

    pub(super) fn encode<C: Serialize>(
        &self,
        channel: Channel,
        number: u64,
        kind: &str,
        content: &C,
    ) -> Frame {
        let id = format!("{}_{number}", self.client);
        Request { channel, id: &id, kind, session: &self.client, content }.encode(self.framing())
    }

    /// Sends something that has no content; its number. If it cannot be sent, the next read says so.
    pub(super) fn ask(&mut self, channel: Channel, kind: &str, by: Deadline) -> u64 {
        let number = self.next_number();
        if self.socket.is_some() {
            let frame = self.encode(channel, number, kind, &Empty {});
            let _ = self.put(&frame, by);
        }
        number
    }

    /// Asks the kernel about itself, after all that it was asked to do.
    pub(super) fn probe(&mut self, probes: &mut Probes, by: Deadline) {
        let number = self.ask(Channel::Shell, "kernel_info_request", by);
        probes.asked(number);
    }

    /// Asks the kernel about itself, beside all that it is at.
    pub(super) fn probe_control(&mut self, probes: &mut Probes, by: Deadline) {
        let number = self.ask(Channel::Control, "kernel_info_request", by);
        probes.asked_on_control(number);
    }

    /// Writes a frame. A gateway that takes none for long is as good as gone.
    pub(super) fn put(&mut self, frame: &Frame, by: Deadline) -> Result<(), Lost> {
        let by = by.earlier(Deadline::after(self.settings.request_timeout));
        let (link, _) = self.socket.as_mut().ok_or_else(Lost::NONE)?;
        match frame {
            Frame::Text(text) => link.put(text.as_bytes())?,
            Frame::Binary(bytes) => link.put_binary(bytes)?,
        }
        // A gateway reads whether or not we do, so that nothing needs to be read in between.
        while !link.flush(by)? {
            if by.has_passed() || self.target.stopped_at().is_some() {
                self.socket = None; // half of it may be out
                return Err(Lost("the gateway did not take what was sent".to_owned()));
            }
        }
        Ok(())
    }

    /// The next message; `None` if there is none by then.
    pub(super) fn read(&mut self, until: Deadline) -> Result<Option<Frame>, Lost> {
        loop {
            match self.next(until)? {
                Word::Frame(frame) => return Ok(Some(frame)),
                Word::Sign => {}
                Word::Nothing => return Ok(None),
            }
        }
    }

    pub(super) fn next(&mut self, until: Deadline) -> Result<Word, Lost> {
        let (link, _) = self.socket.as_mut().ok_or_else(Lost::NONE)?;
        loop {
            match link.read(until.earlier(link.next_duty()))? {
                Some(Heard::Text(text)) => return Ok(Word::Frame(Frame::Text(text))),
                Some(Heard::Binary(bytes)) => return Ok(Word::Frame(Frame::Binary(bytes))),
                Some(Heard::Ping(_) | Heard::Pong(_)) => return Ok(Word::Sign),
                Some(Heard::Goodbye { why, .. }) => return Err(Lost(why)),
                Some(Heard::TooLarge(..)) => unreachable!("the link takes it for the end"),
                None if until.has_passed() => return Ok(Word::Nothing),
                None => link.tend()?,
            }
        }
    }

    pub(super) fn connect(&mut self, by: Deadline) -> Result<(), Lost> {
        self.socket = None;
        let opened = self.endpoint.connect(&self.id, &self.session, self.settings.link, by)?;
        self.socket = Some(opened);
        Ok(())
    }

    /// The socket was lost amid a cell: opens it again, and asks what will tell whether the cell's
    /// answer was lost with it.
    pub(super) fn mend(&mut self, probes: &mut Probes, until: Deadline) -> Result<(), End> {
        self.reconnect(until)?;
        *probes = Probes::default();
        self.probe(probes, until);
        self.probe_control(probes, until);
        Ok(())
    }

    /// Opens the socket again, for the same kernel and as the same session.
    pub(super) fn reconnect(&mut self, until: Deadline) -> Result<(), End> {
        let until = until.earlier(Deadline::after(self.settings.reconnect_timeout));
        let mut pause = PAUSE.0;
        loop {
            let by = until.earlier(Deadline::after(self.settings.request_timeout));
            let trouble = match self.endpoint.has(&self.id, by) {
                Ok(false) => return Err(End::died("the gateway does not have it any more")),
                Ok(true) => match self.connect(until) {
                    Ok(()) => return Ok(()),
                    Err(Lost(why)) => why,
                },
                Err(error) => format!("asked for the kernel, {error}"),
            };
            let left = until.remaining().unwrap_or(Duration::MAX);
            if left <= pause || self.target.stopped_at().is_some() {
                let label = &self.endpoint.label;
                let how = format!("the connection to {label} is lost: {trouble}");
                return Err(End::Unreachable(how));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

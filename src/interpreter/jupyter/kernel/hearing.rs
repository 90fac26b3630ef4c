//! What a kernel says, and to whom it belongs.

use super::probes::Probes;
use super::socket::{Lost, Word};
use super::{ASK_AGAIN, End, Kernel, STALE};
use crate::deadline::Deadline;
use crate::interpreter::jupyter::cell::{self, Cell, Late};
use crate::interpreter::jupyter::wire::{self, Frame};
use crate::interpreter::{ExecuteOptions, OutputRef};
use std::time::Duration;

/// To whom a message may belong.
pub(super) struct Hearing<'a, 'b> {
    pub(super) number: u64,
    pub(super) cell: &'a mut Cell<'b>,
    pub(super) late: &'a mut Late,
    pub(super) probes: &'a mut Probes,
}

impl Kernel {
    /// Before something is asked: takes what was said since the last time, and sees to it that there
    /// is somebody to ask. What is sent into a connection that is dead already may run never, and a
    /// second try might run it twice.
    pub(super) fn look_around(&mut self, late: &mut Late, limit: Deadline) -> Result<(), End> {
        let ignored = &mut |_: OutputRef<'_>| {};
        let nothing = &mut Cell::new(&ExecuteOptions::new().max_output(0), ignored);
        let probes = &mut Probes::default();
        // What lies there to be read may be old: pings of a gateway that gave us up when nobody
        // answered. So it is read to its end, and only what comes after a ping of ours is a sign.
        let mut is_stale = !self.is_fresh();
        let mut pinged: Option<Deadline> = None;
        loop {
            let until = pinged.unwrap_or(Deadline::after(Duration::ZERO));
            match self.next(until.earlier(limit)) {
                Ok(Word::Frame(frame)) => {
                    // No request has the number zero.
                    let number = 0;
                    let hearing = Hearing { number, cell: nothing, late, probes };
                    self.hear(&frame, hearing)?;
                    continue;
                }
                Ok(Word::Sign) if pinged.is_none() => continue,
                Ok(Word::Sign) => {}
                Ok(Word::Nothing) if !is_stale && !self.is_suspect => return Ok(()),
                Ok(Word::Nothing) if !is_stale => self.confirm(late, limit)?,
                Ok(Word::Nothing) if pinged.is_none() && self.ping().is_ok() => {
                    pinged = Some(Deadline::after(self.settings.link.keep_alive_timeout));
                    continue;
                }
                Ok(Word::Nothing) | Err(_) => {
                    self.reconnect(limit)?;
                    self.confirm(late, limit)?;
                }
            }
            (is_stale, pinged) = (false, None);
        }
    }

    /// Between cells, after a reconnection, or after the gateway has said that it starts the kernel anew:
    /// is it still the process that we knew?
    fn confirm(&mut self, late: &mut Late, limit: Deadline) -> Result<(), End> {
        let by = limit.earlier(Deadline::after(self.settings.reconnect_timeout));
        let known = self.process.clone();
        if !self.greet(by, Some(late))? {
            let label = &self.endpoint.label;
            return Err(End::Unreachable(format!("the kernel at {label} does not answer")));
        }
        if self.process != known {
            return Err(End::died("its process ended, and the gateway has started another"));
        }
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        self.socket.as_ref().is_some_and(|(link, _)| link.heard_at().elapsed() < STALE)
    }

    fn ping(&mut self) -> Result<(), Lost> {
        let (link, _) = self.socket.as_mut().ok_or_else(Lost::NONE)?;
        link.ping()?;
        Ok(())
    }

    /// Takes a message apart, and gives it to whom it belongs.
    pub(super) fn hear(&mut self, frame: &Frame, hearing: Hearing<'_, '_>) -> Result<(), End> {
        let message = wire::decode(self.framing(), frame)?;
        let kind = &*message.header.kind;
        if kind == "shutdown_reply" {
            return Err(End::died("it was shut down"));
        }
        let Hearing { number: current, cell, late, probes } = hearing;
        let Some(number) = message.parent.as_deref().and_then(|id| self.number_of(id)) else {
            if kind == "status" && message.parent.is_none() {
                match &*cell::state(&message)? {
                    // Its gateway believes so. One that has lost sight of the kernel's machine does as
                    // well: whoever answers next is the old process, or a new one.
                    "restarting" => self.is_suspect = true,
                    "dead" if self.endpoint.is_remote() => self.is_suspect = true,
                    "dead" => return Err(End::died("its process ended again and again")),
                    _ => {}
                }
            }
            return Ok(());
        };
        let by_gateway = message.header.session == self.session;
        if !by_gateway && self.process.as_deref() != Some(&message.header.session) {
            return Err(End::died("its process ended, and the gateway has started another"));
        }
        if !by_gateway {
            probes.heard();
        }
        if number == current {
            cell.take(&message, by_gateway)?;
        } else if probes.is_ours(number) {
            probes.take(number, &message)?;
            self.is_suspect &= by_gateway;
        } else if let Some((_, count)) = self.cells.iter().rev().find(|(of, _)| *of == number) {
            late.take(*count, &message)?;
        }
        Ok(())
    }

    /// Asks the kernel about itself until it has answered on both channels, or there is no more time.
    pub(super) fn greet(&mut self, by: Deadline, mut late: Option<&mut Late>) -> Result<bool, End> {
        let mut probes = Probes::default();
        let mut ask_at = Deadline::after(Duration::ZERO);
        loop {
            if probes.answered() {
                self.is_suspect = false;
                return Ok(true);
            }
            if by.has_passed() || late.is_some() && self.target.stopped_at().is_some() {
                return Ok(false);
            }
            if ask_at.has_passed() {
                self.probe(&mut probes, by);
                ask_at = Deadline::after(ASK_AGAIN);
            }
            let frame = match self.read(by.earlier(ask_at)) {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(_) => {
                    self.reconnect(by)?;
                    continue;
                }
            };
            let message = wire::decode(self.framing(), &frame)?;
            let number = message.parent.as_deref().and_then(|id| self.number_of(id));
            let kind = &*message.header.kind;
            match number {
                Some(number) if probes.is_ours(number) => {
                    probes.take(number, &message)?;
                    if kind == "kernel_info_reply" {
                        self.process = Some(message.header.session.clone().into_owned());
                        let odd = |_| End::Protocol("what it says about itself is no such thing");
                        self.about = serde_json::from_str(message.content.get()).map_err(odd)?;
                    }
                }
                Some(number) => {
                    let cell = self.cells.iter().rev().find(|(of, _)| *of == number);
                    if let (Some((_, count)), Some(late)) = (cell, late.as_deref_mut()) {
                        late.take(*count, &message)?;
                    }
                }
                None => {
                    let is_about_all = kind == "status" && message.parent.is_none();
                    let is_known = !self.endpoint.is_remote() || late.is_none();
                    if is_about_all && is_known && cell::state(&message)? == "dead" {
                        return Err(End::died("its process ended again and again"));
                    }
                }
            }
        }
    }
}

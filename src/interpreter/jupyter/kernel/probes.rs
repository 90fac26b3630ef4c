//! What a kernel is asked beside cells, to see where it is.

use std::time::{Duration, Instant};

use crate::interpreter::jupyter::cell;
use crate::interpreter::jupyter::wire::{Incoming, Malformed};

/// What was asked since it mattered, and what came of it.
#[derive(Default)]
pub(super) struct Probes {
    /// The numbers of those on the channel of cells: they are answered in order.
    sent: Vec<u64>,
    replied: bool,
    idle: bool,
    /// The numbers of those on the control channel: answered beside what runs.
    control: Vec<u64>,
    /// Whether any of these was answered.
    alive: bool,
    /// Whether the kernel has said, on the channel of outputs, that it was at any of these.
    shown: bool,
    /// Since when the kernel owes such an answer.
    silent_since: Option<Instant>,
    /// What came of an interrupt.
    interrupt: Option<bool>,
}

impl Probes {
    pub(super) fn asked(&mut self, number: u64) {
        self.sent.push(number);
    }

    pub(super) fn asked_on_control(&mut self, number: u64) {
        self.control.push(number);
        self.silent_since.get_or_insert_with(Instant::now);
    }

    /// An interrupt is about to be asked for: what was heard before does not concern it.
    pub(super) fn begin_interrupt(&mut self) {
        (self.alive, self.shown, self.interrupt) = (false, false, None);
        self.control.clear();
    }

    /// Whether outputs come through, as far as that is shown since an interrupt.
    pub(super) fn outputs_come(&self) -> bool {
        self.shown
    }

    /// Whether what was asked after the cell was answered.
    pub(super) fn answered(&self) -> bool {
        self.replied && self.idle
    }

    /// Whether the kernel has answered on control.
    pub(super) fn is_alive(&self) -> bool {
        self.alive
    }

    /// Whether the kernel has taken the interrupt; `None` while it has not said.
    pub(super) fn interrupted(&self) -> Option<bool> {
        self.interrupt
    }

    /// For how long the kernel has said nothing at all, though it was asked.
    pub(super) fn silence(&self) -> Duration {
        self.silent_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// It has said something, whatever it is.
    pub(super) fn heard(&mut self) {
        self.silent_since = None;
    }

    pub(super) fn is_ours(&self, number: u64) -> bool {
        self.sent.contains(&number) || self.control.contains(&number)
    }

    pub(super) fn take(&mut self, number: u64, message: &Incoming<'_>) -> Result<(), Malformed> {
        if self.sent.contains(&number) {
            match (&*message.channel, &*message.header.kind) {
                ("shell", _) => self.replied = true,
                ("iopub", "status") => self.idle |= cell::state(message)? == "idle",
                _ => {}
            }
        } else if self.control.contains(&number) && message.channel == "iopub" {
            self.shown = true;
        } else if self.control.contains(&number) && message.channel == "control" {
            self.alive = true;
            if message.header.kind == "interrupt_reply" {
                self.interrupt = Some(cell::is_ok(message)?);
            }
        }
        Ok(())
    }
}

//! Cells: sent, waited for, stopped; and taken up again after an outage.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::hearing::Hearing;
use super::probes::Probes;
use super::{ASK_AGAIN, End, Kernel};
use crate::deadline::Deadline;
use crate::interpreter::jupyter::cell::{Cell, Late};
use crate::interpreter::jupyter::wire::{self, Channel};
use crate::interpreter::text::SHOWN;
use crate::interpreter::{
    ExecuteOptions, Execution, InterpreterError, MimeBundle, OutputRef, Variable,
};

/// How long a running cell waits at most until it looks whether it was interrupted.
const LOOK_UP: Duration = Duration::from_millis(50);
/// After how long a running cell's kernel is looked for first, and the longest pause until that is
/// done again.
const LOOK_FOR: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How long the gateway may take to say whether it has a kernel whose cell is running.
const LOOKING: Duration = Duration::from_secs(1);
/// How many earlier cells are remembered, for what they may still put out.
const REMEMBERED: usize = 1024;
/// How long an interrupt may take by the control channel, at most, until another way is tried.
const BY_CONTROL: Duration = Duration::from_secs(1);
/// How long a kernel that answers on control may take to say that it was interrupted.
const BY_REPLY: Duration = Duration::from_millis(250);

#[derive(Serialize)]
struct Execute<'a> {
    code: &'a str,
    silent: bool,
    store_history: bool,
    user_expressions: serde_json::Map<String, serde_json::Value>,
    allow_stdin: bool,
    stop_on_error: bool,
}

/// A cell that was running when its kernel got out of reach.
pub(super) struct Pending {
    pub(super) number: u64,
    /// What the kernel counts it as, as far as that can be said.
    pub(super) count: u64,
    /// How long it may run, and until when.
    timeout: Option<Duration>,
    limit: Deadline,
}

impl Pending {
    /// What another process may have left running.
    pub(super) fn of_another(number: u64) -> Self {
        Self { number, count: 0, timeout: None, limit: Deadline::NEVER }
    }
}

/// What is waited for.
#[derive(Clone, Copy)]
struct Awaited {
    number: u64,
    /// When it is to be stopped.
    limit: Deadline,
    /// When it is waited for no longer, and goes on.
    leave_at: Deadline,
    /// Whether it was sent by an earlier call.
    is_pending: bool,
}

/// How an interrupt is getting on.
struct Interrupt {
    asked_at: Instant,
    /// Whether the kernel, or its gateway, was told.
    is_told: bool,
    /// When the cell was to end: at its limit. `None`: somebody has asked for it.
    until: Option<Deadline>,
}

impl Kernel {
    /// Runs one cell. After an error the kernel is of no use any more, unless that says otherwise.
    pub(in super::super) fn run(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let request = Execute {
            code,
            silent: false,
            store_history: true,
            user_expressions: serde_json::Map::new(),
            allow_stdin: false,
            stop_on_error: true,
        };
        let mut late = self.late(options);
        let mut cell = Cell::new(options, on_output);
        let outcome = self.perform(&request, options.timeout, &mut cell, &mut late);
        self.conclude_cell(outcome, cell, late, options)
    }

    /// Waits for the cell that was running when the kernel got out of reach. `None`: there is none.
    pub(in super::super) fn resume(
        &mut self,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Option<Execution>, InterpreterError> {
        let Some(number) = self.pending.as_ref().map(|pending| pending.number) else {
            return Ok(None);
        };
        let mut late = self.late(options);
        let mut cell = Cell::new(options, on_output);
        cell.may_lack_some();
        let limit = options.timeout.map_or(Deadline::NEVER, Deadline::after);
        self.target.begin();
        let outcome = self.await_pending(&mut cell, &mut late, limit, limit);
        let outcome = outcome.map(|timed_out| (number, timed_out));
        self.conclude_cell(outcome, cell, late, options).map(Some)
    }

    fn conclude_cell(
        &mut self,
        outcome: Result<(u64, bool), InterpreterError>,
        mut cell: Cell<'_>,
        mut late: Late,
        options: &ExecuteOptions,
    ) -> Result<Execution, InterpreterError> {
        let (number, timed_out) = match outcome {
            Ok(done) => done,
            Err(error) => {
                self.untold = Some(late);
                return Err(error.with_outputs(cell.into_outputs()));
            }
        };
        if cell.ends_kernel() {
            let error = InterpreterError::died("the cell told the kernel to exit");
            return Err(error.with_outputs(cell.into_outputs()));
        }
        if let Some(count) = cell.count() {
            self.remember(number, count);
            // The gateway has thrown the value away with the rest. Python keeps it.
            if cell.lacks_value() && self.about.language_info.name == "python" {
                let value = self.evaluate(&format!("Out[{count}]"), options, &mut late);
                if let Some(value) = value? {
                    cell.set_value(value);
                }
            }
        }
        Ok(cell.finish(timed_out, late))
    }

    fn remember(&mut self, number: u64, count: u64) {
        self.cells.push_back((number, count));
        if self.cells.len() > REMEMBERED {
            self.cells.pop_front();
        }
    }

    /// What the session's code has bound.
    pub(in super::super) fn variables(
        &mut self,
        options: &ExecuteOptions,
    ) -> Result<Vec<Variable>, InterpreterError> {
        let cannot = || InterpreterError::refused("this kernel cannot tell its variables");
        if self.about.language_info.name != "python" {
            return Err(cannot());
        }
        let source =
            json!(concat!(include_str!("../../short.py"), include_str!("../variables.py")));
        let room = options.max_output;
        // One expression, so that nothing of it is left in the session.
        let expression = format!(
            "(lambda names: (exec({source}, names), names['told'])[1])\
             ({{'shell': get_ipython(), 'shown': {SHOWN}, 'room': {room}}})"
        );
        let mut late = self.late(options);
        let told = self.evaluate(&expression, options, &mut late);
        self.untold = Some(late);
        let mut told = told?.ok_or_else(cannot)?;
        let told = told.remove("application/json").ok_or_else(cannot)?;
        serde_json::from_value(told).map_err(|_| cannot())
    }

    fn late(&mut self, options: &ExecuteOptions) -> Late {
        self.untold.take().unwrap_or_else(|| Late::new(options.max_output))
    }

    /// Evaluates an expression beside all cells, if the kernel can do that: `None` if it raises.
    fn evaluate(
        &mut self,
        expression: &str,
        options: &ExecuteOptions,
        late: &mut Late,
    ) -> Result<Option<MimeBundle>, InterpreterError> {
        let request = Execute {
            code: "",
            silent: true,
            store_history: false,
            user_expressions: [("value".to_owned(), json!(expression))].into_iter().collect(),
            allow_stdin: false,
            stop_on_error: true,
        };
        let ignored = &mut |_: OutputRef<'_>| {};
        let mut cell = Cell::new(&ExecuteOptions::new().max_output(0), ignored);
        self.perform(&request, options.timeout, &mut cell, late)?;
        Ok(cell.expression("value"))
    }

    /// Sends a request and gathers what comes of it. Gives its number, and whether it ran into its
    /// time limit.
    fn perform(
        &mut self,
        request: &Execute<'_>,
        timeout: Option<Duration>,
        cell: &mut Cell<'_>,
        late: &mut Late,
    ) -> Result<(u64, bool), InterpreterError> {
        let limit = timeout.map_or(Deadline::NEVER, Deadline::after);
        self.target.begin();
        self.settle(late, limit)?;
        if let Err(end) = self.look_around(late, limit) {
            return Err(self.conclude(end.before_it_was_sent()));
        }

        let number = self.next_number();
        let frame = self.encode(Channel::Shell, number, "execute_request", request);
        if frame.len() > wire::LARGEST {
            let (is, most) = (frame.len(), wire::LARGEST);
            let what = format!("its request has {is} bytes, and a gateway takes {most} at most");
            return Err(InterpreterError::refused(what));
        }
        // If the socket is lost amid this, what follows finds out.
        let sent = self.put(&frame, limit);
        drop(frame);
        let awaited = Awaited { number, limit, leave_at: Deadline::NEVER, is_pending: false };
        if sent.is_err() {
            self.socket = None;
        }
        match self.await_end(awaited, cell, late) {
            Ok(timed_out) => Ok((number, timed_out)),
            Err(End::Killed) => Err(InterpreterError::killed(timeout.unwrap_or_default())),
            Err(end) => {
                if matches!(end, End::Unreachable(_)) {
                    let count = self.count_of(cell);
                    self.pending = Some(Pending { number, count, timeout, limit });
                }
                Err(self.conclude(end))
            }
        }
    }

    fn count_of(&self, cell: &Cell<'_>) -> u64 {
        cell.count().unwrap_or_else(|| self.cells.back().map_or(1, |(_, count)| count + 1))
    }

    /// Waits for what an earlier call has left running, before anything else is sent: by then it is
    /// known that an interrupt of it does not hit the next cell.
    fn settle(&mut self, late: &mut Late, limit: Deadline) -> Result<(), InterpreterError> {
        let Some(Pending { number, count, limit: its_limit, .. }) = self.pending else {
            return Ok(());
        };
        let room = ExecuteOptions::new();
        let ignored = &mut |_: OutputRef<'_>| {};
        let mut cell = Cell::new(&room, ignored);
        let outcome = self.await_pending(&mut cell, late, its_limit, limit);
        late.take_outputs(count, cell.into_outputs());
        late.may_lack_some();
        match outcome {
            Ok(_) => {
                self.remember(number, count);
                Ok(())
            }
            // What it came to is of no interest to this call, and it is over.
            Err(error) if error.is_unreachable() && self.pending.is_none() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for what an earlier call has left running; whether it ran into its limit.
    fn await_pending(
        &mut self,
        cell: &mut Cell<'_>,
        late: &mut Late,
        limit: Deadline,
        leave_at: Deadline,
    ) -> Result<bool, InterpreterError> {
        let Some(Pending { number, count, timeout, limit: its_limit }) = self.pending.take() else {
            return Ok(false);
        };
        let limit = limit.earlier(its_limit);
        let awaited = Awaited { number, limit, leave_at, is_pending: true };
        let outcome = self.await_end(awaited, cell, late);
        if let Err(End::Unreachable(_) | End::Busy) = outcome {
            let count = cell.count().unwrap_or(count);
            self.pending = Some(Pending { number, count, timeout, limit: its_limit });
        }
        outcome.map_err(|end| match end {
            End::Killed => InterpreterError::killed(timeout.unwrap_or_default()),
            end => self.conclude(end),
        })
    }

    /// Waits for the end of a cell, and stops it at its limit. Whether that was necessary.
    fn await_end(
        &mut self,
        awaited: Awaited,
        cell: &mut Cell<'_>,
        late: &mut Late,
    ) -> Result<bool, End> {
        let Awaited { number, limit, leave_at, is_pending } = awaited;
        let mut probes = Probes::default();
        // Whether something of it may have been lost.
        let mut was_cut = is_pending;
        let mut pause = LOOK_FOR.0;
        let mut look_at = Deadline::after(pause);
        let mut ask_pause = ASK_AGAIN;
        let mut ask_at = Deadline::after(Duration::ZERO);
        let mut interrupt: Option<Interrupt> = None;
        let mut done_by: Option<Deadline> = None;
        loop {
            if cell.is_done() {
                // An interrupt that was sent before the outage may come only now: not to the next cell.
                let settled = done_by.get_or_insert_with(|| Deadline::after(BY_CONTROL));
                let is_settled = !is_pending || !self.has_control || probes.is_alive();
                if is_settled || settled.has_passed() {
                    break;
                }
            }
            let end_at = interrupt.as_ref().and_then(|one| one.until).unwrap_or(limit);
            // The time of what is pending may long be over, and does not count for reaching it.
            let until = if is_pending { leave_at } else { end_at };
            if (self.is_suspect || was_cut && !probes.is_alive()) && ask_at.has_passed() {
                self.probe(&mut probes, until);
                self.probe_control(&mut probes, until);
                ask_at = Deadline::after(ask_pause);
                ask_pause = (ask_pause * 2).min(LOOK_FOR.0);
            }
            match self.read(end_at.earlier(until).earlier(Deadline::after(LOOK_UP))) {
                Ok(Some(frame)) => {
                    let hearing = Hearing { number, cell, late, probes: &mut probes };
                    self.hear(&frame, hearing)?;
                    continue;
                }
                Ok(None) => {}
                Err(_) => {
                    self.mend(&mut probes, until)?;
                    cell.may_lack_some();
                    was_cut = true;
                    // What was asked for may be lost, too.
                    if let Some(one) = interrupt.as_mut().filter(|one| !one.is_told) {
                        self.ask_to_stop(&mut probes, until);
                        one.asked_at = Instant::now();
                    }
                }
            }
            if cell.is_done() {
                continue;
            }
            // It was asked after the cell, and has answered before it.
            if probes.answered() {
                if was_cut {
                    return Err(End::Missed);
                }
                // The interrupt has hit the kernel where it was about to reply.
                cell.was_interrupted();
                break;
            }
            self.has_control |= probes.is_alive();
            if self.target.take_interrupt() && interrupt.is_none() {
                self.ask_to_stop(&mut probes, until);
                interrupt = Some(Interrupt::now(None));
            }
            let may_be_told = !is_pending || !self.has_control || probes.is_alive();
            let is_stopping = interrupt.as_ref().is_some_and(|one| one.until.is_some());
            if limit.has_passed() && !is_stopping && may_be_told {
                let grace = Deadline::after(self.settings.grace);
                self.ask_to_stop(&mut probes, grace);
                interrupt = Some(Interrupt::now(Some(grace)));
            }
            if let Some(one) = &mut interrupt {
                self.see_to_interrupt(one, &mut probes)?;
                if one.until.is_some_and(Deadline::has_passed) {
                    let is_seen = cell.has_begun() && probes.outputs_come();
                    return Err(self.did_not_stop(one.is_told, is_seen));
                }
                // Somebody has asked for it. It may not have helped, and be asked for again.
                if one.until.is_none() && one.is_told {
                    interrupt = None;
                }
            }
            if leave_at.has_passed() {
                return Err(if probes.is_alive() { End::Busy } else { self.is_silent() });
            }
            if look_at.has_passed() {
                self.look_for_it(until)?;
                self.probe_control(&mut probes, until);
                pause = (pause * 2).min(LOOK_FOR.1);
                look_at = Deadline::after(pause);
            }
            self.is_worth_waiting(&probes)?;
        }
        Ok(interrupt.is_some_and(|one| one.until.is_some()))
    }

    /// Whether the kernel, or somebody who wants this to end, has been silent for too long.
    fn is_worth_waiting(&self, probes: &Probes) -> Result<(), End> {
        let is_stopped = |at: Instant| at.elapsed() >= self.settings.request_timeout;
        if self.target.stopped_at().is_some_and(is_stopped) {
            return Err(self.is_silent());
        }
        let may_be_away = self.endpoint.is_remote() && self.has_control;
        if may_be_away && probes.silence() >= self.settings.silence_timeout {
            return Err(self.is_silent());
        }
        Ok(())
    }

    fn is_silent(&self) -> End {
        End::Unreachable(format!("the kernel at {} does not answer", self.endpoint.label))
    }

    /// Asks the running cell to stop: on the control channel, which costs the gateway nothing.
    fn ask_to_stop(&mut self, probes: &mut Probes, by: Deadline) {
        probes.begin_interrupt();
        let number = self.ask(Channel::Control, "interrupt_request", by);
        probes.asked_on_control(number);
        self.probe_control(probes, by);
    }

    /// Looks how an interrupt is getting on; tries the other way, if that is the one.
    ///
    /// An interrupt by HTTP has a gateway that cannot reach the kernel's machine stand still, for all
    /// its kernels. So that is for kernels that have answered, or that never do while they are busy.
    fn see_to_interrupt(&mut self, one: &mut Interrupt, probes: &mut Probes) -> Result<(), End> {
        if one.is_told {
            return Ok(());
        }
        let by = one.until.unwrap_or(Deadline::NEVER);
        let waited = one.asked_at.elapsed();
        let by_http = match probes.interrupted() {
            Some(true) => false,
            Some(false) => true,
            None if probes.is_alive() && waited >= BY_REPLY.min(self.settings.grace / 2) => true,
            None if waited < BY_CONTROL.min(self.settings.grace / 2) => return Ok(()),
            // Nothing is heard of it.
            None if self.endpoint.is_remote() && self.has_control => return Ok(()),
            None => true,
        };
        if by_http {
            let by = by.earlier(Deadline::after(self.settings.request_timeout));
            match self.endpoint.interrupt(&self.id, by) {
                Ok(()) => {}
                Err(error) if error.is_unreachable() => {
                    let label = &self.endpoint.label;
                    let what =
                        format!("the gateway at {label} was to interrupt the cell, and {error}");
                    return Err(End::Unreachable(what));
                }
                // It cannot be interrupted, or is gone.
                Err(_) => self.look_for_it(by)?,
            }
        }
        one.is_told = true;
        // An interrupt does not wake a loop that sleeps, as one does under a top-level `await`; anything
        // that comes in does. And one that hits IPython itself costs the cell its reply, which the
        // answer shows.
        self.probe(probes, by);
        Ok(())
    }

    /// The cell was to stop, and has not. `is_seen`: it has begun, and its end would be heard.
    ///
    /// After an outage the ways to a kernel come back one by one: each has a connection of its own, with
    /// pauses that have grown. The control channel may answer while the cell has never arrived, or while
    /// its end cannot be heard; that is no reason to end the kernel.
    fn did_not_stop(&mut self, was_told: bool, is_seen: bool) -> End {
        let may_be_held_up = self.endpoint.is_remote() && self.has_control;
        if !was_told || may_be_held_up && !is_seen {
            return self.is_silent();
        }
        // If it cannot be ended now, that is seen to later.
        self.answers = true;
        let _ = self.end();
        End::Killed
    }

    /// A gateway that removes a kernel, for it was told to or culls, may fail to pass on that it has
    /// ended, and keeps the connection open. Whether the gateway is there at all is known by pings.
    fn look_for_it(&self, by: Deadline) -> Result<(), End> {
        match self.endpoint.has(&self.id, by.earlier(Deadline::after(LOOKING))) {
            Ok(false) => Err(End::died("the gateway does not have it any more")),
            Ok(true) | Err(_) => Ok(()),
        }
    }
}

impl Interrupt {
    fn now(until: Option<Deadline>) -> Self {
        Self { asked_at: Instant::now(), is_told: false, until }
    }
}

//! One kernel, from its start on a gateway to its end, as its owner sees it.
//!
//! # What ties an answer to its request
//!
//! Everything that a kernel says names the request that it belongs to. Our requests are numbered; a
//! message with the number of the running cell is that cell's, one with an earlier number is late, and
//! all others (the gateway asks the kernel things by itself, and tells us the answers) are nobody's.
//!
//! # What happens when
//!
//! - The *socket* is lost: it is opened again with the same session id, and the gateway hands over what
//!   was said meanwhile. A cell that was running goes on. Whether its request, or what came of it, was
//!   lost with the socket is found out by asking something else after it: requests are answered in
//!   order, so an answer to the later one before that to the cell means that there will be none.
//! - The *kernel* dies: the gateway starts it anew, which it says, some seconds later. Whatever runs in
//!   the new process, ours is dead; so this is the end of the `Kernel`.
//! - The *gateway* is gone: reconnecting is given up in time. That is the end, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cell::{self, Cell, Late};
use super::gateway::{Endpoint, KernelOptions, LinkOptions};
use super::gateways::{Fleet, Seat};
use super::left::Held;
use super::rest::RestError;
use super::wire::{self, Empty, Frame, Framing, Incoming, Request};
use crate::deadline::Deadline;
use crate::interpreter::text::SHOWN;
use crate::interpreter::{
    ExecuteOptions, Execution, InterpreterError, MimeBundle, OutputRef, Variable,
};
use crate::session::SessionError;
use crate::session::websocket::{Goodbye, Heard, Link, Socket};

/// How often a kernel that has just been started is asked whether it is there. Its first answers may
/// get lost: the gateway subscribes to what it says only by and by.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long a running cell waits at most until it looks whether it was interrupted.
const LOOK_UP: Duration = Duration::from_millis(100);
/// After how long a running cell's kernel is looked for at its gateway first, and the longest pause until
/// that is done again.
const LOOK_FOR: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How long the gateway may take to say whether it has a kernel whose cell is running.
const LOOKING: Duration = Duration::from_secs(1);
/// After how long a silence the socket is tried before it is relied on.
const STALE: Duration = Duration::from_secs(20);
/// How many earlier cells are remembered, for what they may still put out.
const REMEMBERED: usize = 1024;
/// The first pause between two tries to connect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The settings that matter to a kernel once it is there.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) kernel: KernelOptions,
    pub(super) link: LinkOptions,
    pub(super) start_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) reconnect_timeout: Duration,
    pub(super) grace: Duration,
    pub(super) close_timeout: Duration,
}

pub(super) struct Kernel {
    endpoint: Arc<Endpoint>,
    /// Where it counts.
    seat: Seat,
    settings: Arc<Settings>,
    target: Arc<Target>,
    id: String,
    /// `None`: it has ended, or is given up.
    held: Option<Held>,
    /// The socket's, kept for life: by it the gateway knows us again.
    session: String,
    /// Ours, in our messages. Another one: what the *gateway* makes bears the socket's.
    client: String,
    socket: Option<(Link, Framing)>,
    about: KernelInfo,
    /// The process's own session: another one is another process.
    process: Option<String>,
    /// The number of the last request.
    last: u64,
    /// Numbers of requests, and what the kernel counted them as.
    cells: VecDeque<(u64, u64)>,
    /// What came of them late, and no cell has been told of.
    untold: Option<Late>,
}

/// What a kernel says about itself.
#[derive(Debug, Default, Deserialize)]
pub(super) struct KernelInfo {
    #[serde(default)]
    pub(super) language_info: LanguageInfo,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct LanguageInfo {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) version: String,
}

/// Why a kernel cannot go on.
enum End {
    Died(String),
    Protocol(&'static str),
}

impl End {
    fn died(how: impl Into<String>) -> Self {
        Self::Died(how.into())
    }

    fn into_error(self) -> InterpreterError {
        match self {
            Self::Died(how) => InterpreterError::died(how),
            Self::Protocol(what) => InterpreterError::protocol(what),
        }
    }
}

impl From<wire::Malformed> for End {
    fn from(wire::Malformed(what): wire::Malformed) -> Self {
        Self::Protocol(what)
    }
}

/// Something that a kernel is asked beside cells, to see where it is.
#[derive(Default)]
struct Probes {
    /// The numbers of those that were sent since it mattered.
    sent: Vec<u64>,
    replied: bool,
    idle: bool,
}

impl Probes {
    fn answered(&self) -> bool {
        self.replied && self.idle
    }

    fn take(&mut self, number: u64, message: &Incoming<'_>) -> Result<(), wire::Malformed> {
        if self.sent.contains(&number) {
            match (&*message.channel, &*message.header.kind) {
                ("shell", _) => self.replied = true,
                ("iopub", "status") => self.idle |= cell::state(message)? == "idle",
                _ => {}
            }
        }
        Ok(())
    }
}

/// How far a cell has been asked to stop.
#[derive(Clone, Copy)]
enum Stop {
    Not,
    /// It was interrupted, and has until then.
    Asked(Deadline),
}

#[derive(Serialize)]
struct Execute<'a> {
    code: &'a str,
    silent: bool,
    store_history: bool,
    user_expressions: serde_json::Map<String, serde_json::Value>,
    allow_stdin: bool,
    stop_on_error: bool,
}

impl Kernel {
    // ---- start and end ------------------------------------------------------------------------

    /// Starts a kernel on the best gateway for its key that can start one, and waits until it has
    /// answered.
    pub(super) fn start(
        fleet: &Arc<Fleet>,
        key: &str,
        settings: &Arc<Settings>,
        target: &Arc<Target>,
    ) -> Result<Self, InterpreterError> {
        let mut tried = Vec::new();
        let mut problem = None;
        while let Some(seat) = fleet.seat(key, &tried) {
            tried.push(seat.place);
            match Self::start_at(seat, settings, target) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => problem = problem.or(Some(error)), // the first choice's says most
            }
        }
        Err(problem.expect("there is at least one gateway"))
    }

    fn start_at(
        seat: Seat,
        settings: &Arc<Settings>,
        target: &Arc<Target>,
    ) -> Result<Self, InterpreterError> {
        let endpoint = &seat.endpoint;
        let by = Deadline::after(settings.start_timeout);
        let answer_by = Deadline::after(settings.request_timeout);
        let started = endpoint.start(&settings.kernel, answer_by, by);
        seat.failed(started.as_ref().is_err_and(RestError::is_unreachable));
        let held = started.map_err(|error| refused(endpoint, &error))?;
        let endpoint = Arc::clone(endpoint);
        let mut kernel = Self {
            endpoint: Arc::clone(&endpoint),
            seat,
            settings: Arc::clone(settings),
            target: Arc::clone(target),
            id: held.id.clone(),
            held: Some(held),
            session: super::random_uuid(),
            client: super::random_uuid(),
            socket: None,
            about: KernelInfo::default(),
            process: None,
            last: 0,
            cells: VecDeque::new(),
            untold: None,
        };
        // From here on it is ended if it is dropped.
        target.aim(&endpoint, &kernel.id);
        let not_ready = |why: &str| {
            InterpreterError::start(format!("the kernel at {}: {why}", endpoint.label), None)
        };
        kernel.connect(by).map_err(|Lost(why)| not_ready(&why))?;
        match kernel.greet(by, None) {
            Ok(true) => Ok(kernel),
            Ok(false) => {
                let limit = settings.start_timeout;
                Err(not_ready(&format!("it was not ready within {limit:?}")))
            }
            Err(End::Died(why)) => Err(not_ready(&why)),
            Err(End::Protocol(what)) => Err(not_ready(what)),
        }
    }

    /// Has the gateway start the kernel's process anew, and waits until it has answered.
    pub(super) fn restart(&mut self) -> Result<(), InterpreterError> {
        let by = Deadline::after(self.settings.start_timeout);
        let restarted = self.endpoint.rest.restart(&self.id, by);
        restarted.map_err(|error| refused(&self.endpoint, &error))?;
        self.process = None;
        self.cells.clear();
        self.untold = None;
        match self.greet(by, None) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let limit = self.settings.start_timeout;
                let what = format!("the kernel was not ready again within {limit:?}");
                Err(InterpreterError::start(what, None))
            }
            Err(End::Died(why)) => Err(InterpreterError::start(why, None)),
            Err(End::Protocol(what)) => Err(InterpreterError::start(what, None)),
        }
    }

    /// Ends the kernel, and waits until the gateway has said that it has.
    pub(super) fn close(mut self) -> Result<(), String> {
        self.end().map_err(|error| format!("the kernel at {}: {error}", self.endpoint.label))
    }

    fn end(&mut self) -> Result<(), RestError> {
        let Some(held) = self.held.take() else {
            return Ok(()); // already
        };
        self.target.miss(&self.id);
        let ended = self.endpoint.end(held, Deadline::after(self.settings.close_timeout));
        if let Some((mut link, _)) = self.socket.take() {
            link.leave(Goodbye::Normal);
        }
        ended
    }

    /// Gives up on a gateway that does not answer. It is told to end the kernel when it does.
    fn abandon(&mut self) {
        if let Some(held) = self.held.take() {
            self.target.miss(&self.id);
            self.endpoint.leave(held);
            self.seat.failed(true);
        }
    }

    pub(super) fn info(&self) -> &KernelInfo {
        &self.about
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn label(&self) -> &str {
        &self.endpoint.label
    }

    // ---- cells --------------------------------------------------------------------------------

    /// Runs one cell. After an error the kernel is of no use any more, unless the cell was refused.
    pub(super) fn run(
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
            self.cells.push_back((number, count));
            if self.cells.len() > REMEMBERED {
                self.cells.pop_front();
            }
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

    /// What the session's code has bound.
    pub(super) fn variables(
        &mut self,
        options: &ExecuteOptions,
    ) -> Result<Vec<Variable>, InterpreterError> {
        let cannot = || InterpreterError::refused("this kernel cannot tell its variables");
        if self.about.language_info.name != "python" {
            return Err(cannot());
        }
        let source = json!(concat!(include_str!("../short.py"), include_str!("variables.py")));
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
        self.look_around(late, limit).map_err(End::into_error)?;

        let number = self.next_number();
        let frame = self.encode(number, "execute_request", request);
        if frame.len() > wire::LARGEST {
            let (is, most) = (frame.len(), wire::LARGEST);
            let what = format!("its request has {is} bytes, and a gateway takes {most} at most");
            return Err(InterpreterError::refused(what));
        }
        let mut probes = Probes::default();
        let mut was_cut = false;
        // If the socket is lost amid this, what follows finds out.
        if self.put(&frame, limit).is_err() {
            self.mend(&mut probes, limit).map_err(End::into_error)?;
            cell.may_lack_some();
            was_cut = true;
        }
        drop(frame);
        let mut pause = LOOK_FOR.0;
        let mut look_at = Deadline::after(pause);
        let mut stop = Stop::Not;
        while !cell.is_done() {
            let until = match stop {
                Stop::Not => limit,
                Stop::Asked(until) => until,
            };
            match self.read(until.earlier(Deadline::after(LOOK_UP))) {
                Ok(Some(frame)) => {
                    let hearing = Hearing { number, cell, late, probes: &mut probes };
                    self.hear(&frame, hearing).map_err(End::into_error)?;
                    continue;
                }
                Ok(None) => {}
                Err(_) => {
                    self.mend(&mut probes, until).map_err(End::into_error)?;
                    cell.may_lack_some();
                    was_cut = true;
                }
            }
            if cell.is_done() {
                break;
            }
            // It was asked after the cell, and has answered before it.
            if probes.answered() && was_cut {
                let how = "what came of the cell was lost with the connection";
                return Err(InterpreterError::died(how));
            }
            if probes.answered() {
                // The interrupt has hit the kernel where it was about to reply.
                cell.was_interrupted();
                break;
            }
            if self.target.was_interrupted() {
                self.nudge(&mut probes, until);
            }
            if look_at.has_passed() {
                self.look_for_it(until)?;
                pause = (pause * 2).min(LOOK_FOR.1);
                look_at = Deadline::after(pause);
            }
            match stop {
                Stop::Not if limit.has_passed() => {
                    let grace = Deadline::after(self.settings.grace);
                    self.interrupt(&mut probes, grace)?;
                    stop = Stop::Asked(grace);
                }
                Stop::Asked(grace) if grace.has_passed() => {
                    let killed = InterpreterError::killed(timeout.unwrap_or_default());
                    return match self.end() {
                        Err(error) if error.is_unreachable() => Err(self.unreachable(&error)),
                        Ok(()) | Err(_) => Err(killed),
                    };
                }
                Stop::Not | Stop::Asked(_) => {}
            }
        }
        Ok((number, matches!(stop, Stop::Asked(_))))
    }

    /// Interrupts the cell that is running.
    fn interrupt(&mut self, probes: &mut Probes, by: Deadline) -> Result<(), InterpreterError> {
        match self.endpoint.rest.interrupt(&self.id, by) {
            Ok(()) => self.nudge(probes, by),
            Err(error) if error.is_unreachable() => return Err(self.unreachable(&error)),
            // It cannot be interrupted, or is gone.
            Err(_) => return self.look_for_it(by),
        }
        Ok(())
    }

    /// A gateway that removes a kernel, for it was told to or culls, may fail to pass on that it has
    /// ended, and keeps the connection open. Whether the gateway is there at all is known by pings.
    fn look_for_it(&self, by: Deadline) -> Result<(), InterpreterError> {
        match self.endpoint.rest.has(&self.id, by.earlier(Deadline::after(LOOKING))) {
            Ok(false) => Err(End::died("the gateway does not have it any more").into_error()),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    fn unreachable(&mut self, error: &RestError) -> InterpreterError {
        self.abandon();
        let label = &self.endpoint.label;
        InterpreterError::died(format!(
            "the gateway at {label} was to stop the cell at its limit, and {error}"
        ))
    }

    /// Asks something. An interrupt does not wake a loop that sleeps, as one does under a top-level
    /// `await`; anything that comes in does. And one that hits IPython itself costs the cell its reply,
    /// which the answer shows.
    fn nudge(&mut self, probes: &mut Probes, by: Deadline) {
        if self.socket.is_some() {
            let number = self.next_number();
            probes.sent.push(number);
            let _ = self.send(number, "kernel_info_request", &Empty {}, by);
        }
    }

    // ---- hearing ------------------------------------------------------------------------------

    /// Before something is asked: takes what was said since the last time, and sees to it that there
    /// is somebody to ask. What is sent into a connection that is dead already may run never, and a
    /// second try might run it twice.
    fn look_around(&mut self, late: &mut Late, limit: Deadline) -> Result<(), End> {
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
                    let hearing = Hearing { number: 0, cell: nothing, late, probes };
                    self.hear(&frame, hearing)?;
                    continue;
                }
                Ok(Word::Sign) if pinged.is_none() => continue,
                Ok(Word::Sign) => {}
                Ok(Word::Nothing) if !is_stale => return Ok(()),
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

    /// After a reconnection between cells: is it still the process that we knew?
    fn confirm(&mut self, late: &mut Late, limit: Deadline) -> Result<(), End> {
        let by = limit.earlier(Deadline::after(self.settings.start_timeout));
        let known = self.process.clone();
        if !self.greet(by, Some(late))? {
            return Err(End::died("it does not answer any more"));
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
    fn hear(&mut self, frame: &Frame, hearing: Hearing<'_, '_>) -> Result<(), End> {
        let message = wire::decode(self.framing(), frame)?;
        let kind = &*message.header.kind;
        if kind == "shutdown_reply" {
            return Err(End::died("it was shut down"));
        }
        let Some(number) = message.parent.as_deref().and_then(|id| self.number_of(id)) else {
            if kind == "status" && message.parent.is_none() {
                match &*cell::state(&message)? {
                    "restarting" => return Err(End::died("its process ended")),
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
        let Hearing { number: current, cell, late, probes } = hearing;
        if number == current {
            cell.take(&message, by_gateway)?;
        } else if let Some((_, count)) = self.cells.iter().rev().find(|(of, _)| *of == number) {
            late.take(*count, &message)?;
        } else {
            probes.take(number, &message)?;
        }
        Ok(())
    }

    /// Asks the kernel about itself. If that cannot be sent, the next read says so.
    fn probe(&mut self, probes: &mut Probes, by: Deadline) {
        let number = self.next_number();
        probes.sent.push(number);
        let _ = self.send(number, "kernel_info_request", &Empty {}, by);
    }

    /// Asks the kernel about itself until it has answered on both channels, or there is no more time.
    fn greet(&mut self, by: Deadline, mut late: Option<&mut Late>) -> Result<bool, End> {
        let mut probes = Probes::default();
        let mut ask_at = Deadline::after(Duration::ZERO);
        loop {
            if probes.answered() {
                return Ok(true);
            }
            if by.has_passed() {
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
                Some(number) if probes.sent.contains(&number) => {
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
                    if is_about_all && cell::state(&message)? == "dead" {
                        return Err(End::died("its process ended again and again"));
                    }
                }
            }
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn number_of(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&*self.client)?.strip_prefix('_')?.parse().ok()
    }

    // ---- the socket ---------------------------------------------------------------------------

    fn send<C: Serialize>(
        &mut self,
        number: u64,
        kind: &str,
        content: &C,
        by: Deadline,
    ) -> Result<(), Lost> {
        let frame = self.encode(number, kind, content);
        self.put(&frame, by)
    }

    fn encode<C: Serialize>(&self, number: u64, kind: &str, content: &C) -> Frame {
        let id = format!("{}_{number}", self.client);
        Request { id: &id, kind, session: &self.client, content }.encode(self.framing())
    }

    fn framing(&self) -> Framing {
        self.socket.as_ref().map_or(Framing::V1, |(_, framing)| *framing)
    }

    fn put(&mut self, frame: &Frame, by: Deadline) -> Result<(), Lost> {
        let (link, _) = self.socket.as_mut().ok_or_else(Lost::NONE)?;
        match frame {
            Frame::Text(text) => link.put(text.as_bytes())?,
            Frame::Binary(bytes) => link.put_binary(bytes)?,
        }
        // A gateway reads whether or not we do, so that nothing needs to be read in between.
        while !link.flush(by)? {
            if by.has_passed() {
                self.socket = None; // half of it may be out
                return Err(Lost::NONE());
            }
        }
        Ok(())
    }

    /// The next message; `None` if there is none by then.
    fn read(&mut self, until: Deadline) -> Result<Option<Frame>, Lost> {
        loop {
            match self.next(until)? {
                Word::Frame(frame) => return Ok(Some(frame)),
                Word::Sign => {}
                Word::Nothing => return Ok(None),
            }
        }
    }

    fn next(&mut self, until: Deadline) -> Result<Word, Lost> {
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

    fn connect(&mut self, by: Deadline) -> Result<(), Lost> {
        self.socket = None;
        let (link, framing) =
            self.endpoint.connect(&self.id, &self.session, self.settings.link, by)?;
        self.target.watch(link.socket());
        self.socket = Some((link, framing));
        Ok(())
    }

    /// The socket was lost amid a cell: opens it again, and asks what will tell whether the cell's
    /// answer was lost with it.
    fn mend(&mut self, probes: &mut Probes, until: Deadline) -> Result<(), End> {
        self.reconnect(until)?;
        *probes = Probes::default();
        self.probe(probes, until);
        Ok(())
    }

    /// Opens the socket again, for the same kernel and as the same session.
    fn reconnect(&mut self, until: Deadline) -> Result<(), End> {
        let until = until.earlier(Deadline::after(self.settings.reconnect_timeout));
        let mut pause = PAUSE.0;
        loop {
            if self.target.is_shut() {
                return Err(End::died("its connection was shut from another thread"));
            }
            let by = until.earlier(Deadline::after(self.settings.request_timeout));
            let trouble = match self.endpoint.rest.has(&self.id, by) {
                Ok(false) => return Err(End::died("the gateway does not have it any more")),
                Ok(true) => match self.connect(until) {
                    Ok(()) => return Ok(()),
                    Err(Lost(why)) => why,
                },
                Err(error) => format!("asked for the kernel, {error}"),
            };
            let left = until.remaining().unwrap_or(Duration::MAX);
            if left <= pause {
                self.abandon();
                let label = &self.endpoint.label;
                let how = format!("the connection to {label} is lost for good: {trouble}");
                return Err(End::Died(how));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

/// A kernel that nobody closed is ended all the same.
impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// What the socket has.
enum Word {
    Frame(Frame),
    /// A ping or a pong: somebody is there.
    Sign,
    /// By then.
    Nothing,
}

/// To whom a message may belong.
struct Hearing<'a, 'b> {
    number: u64,
    cell: &'a mut Cell<'b>,
    late: &'a mut Late,
    probes: &'a mut Probes,
}

fn refused(endpoint: &Endpoint, error: &RestError) -> InterpreterError {
    InterpreterError::start(format!("the gateway at {}: {error}", endpoint.label), None)
}

/// There is no connection, and why.
struct Lost(String);

impl Lost {
    const NONE: fn() -> Self = || Self("there is no connection".to_owned());
}

impl From<SessionError> for Lost {
    fn from(error: SessionError) -> Self {
        Self(super::with_causes(&error))
    }
}

// ---- interrupting -----------------------------------------------------------------------------

/// What others than the owner may do to a kernel.
#[derive(Default)]
pub(super) struct Target {
    aim: Mutex<Aim>,
    interrupted: AtomicBool,
    shut: AtomicBool,
}

#[derive(Default)]
struct Aim {
    kernel: Option<(Arc<Endpoint>, String)>,
    socket: Weak<Socket>,
}

impl Target {
    fn aim(&self, endpoint: &Arc<Endpoint>, id: &str) {
        self.lock().kernel = Some((Arc::clone(endpoint), id.to_owned()));
        self.shut.store(false, Ordering::Relaxed);
    }

    /// The kernel with this id is not there any more.
    fn miss(&self, id: &str) {
        self.lock().kernel.take_if(|(_, of)| of == id);
    }

    fn watch(&self, socket: &Arc<Socket>) {
        self.lock().socket = Arc::downgrade(socket);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Aim> {
        self.aim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cell begins: what was before does not concern it.
    fn begin(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
    }

    fn was_interrupted(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// Has the gateway interrupt the kernel; waits for its answer. Says whether it could be told.
    pub(super) fn interrupt(&self, timeout: Duration) -> bool {
        // Not under the lock: the owner may want it.
        let Some((endpoint, id)) = self.lock().kernel.clone() else {
            return true;
        };
        let told = endpoint.rest.interrupt(&id, Deadline::after(timeout)).is_ok();
        self.interrupted.store(true, Ordering::Relaxed);
        told
    }

    /// The same; and if the gateway cannot be told, whoever waits for it is.
    pub(super) fn stop(&self, timeout: Duration) {
        if !self.interrupt(timeout) {
            self.shut.store(true, Ordering::Relaxed);
            if let Some(socket) = self.lock().socket.upgrade() {
                socket.shut_from_afar();
            }
        }
    }
}

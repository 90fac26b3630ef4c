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
//! - The *process* ends: whatever runs in the next one, ours is dead; so this is the end of the `Kernel`.
//!   What proves it: another session in the header of what the kernel says; the gateway that says that
//!   it has no such kernel. That it says `restarting` proves nothing, for one that has lost sight of the
//!   kernel's machine says so as well: then the kernel is asked.
//! - The *gateway*, or the kernel's machine, does not answer: nothing is known. The call fails, the
//!   `Kernel` is kept, and the next call tries again; a cell that was running is
//!   [waited for](cells::Pending) first. Only after [`Settings::give_up_after`] it is given up.
//!
//! # What is asked by which way
//!
//! Whether the kernel is there, and to interrupt it, is asked on its control channel, which a busy kernel
//! answers and which costs the gateway nothing. Some of what is asked by HTTP has an Enterprise Gateway
//! stand still, for all its kernels, while it tries to reach a machine that is away: so that is asked
//! only about kernels that have just answered.

mod cells;
mod hearing;
mod probes;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::cells::Pending;
use self::probes::Probes;
use self::socket::Lost;
use super::cell::Late;
use super::gateway::{Endpoint, KernelOptions, LinkOptions};
use super::gateways::{Fleet, Seat};
use super::left::Held;
use super::rest::RestError;
use super::target::Target;
use super::wire::{self, Framing};
use crate::deadline::Deadline;
use crate::interpreter::InterpreterError;
use crate::session::websocket::{Goodbye, Link};

/// How often a kernel that has just been started is asked whether it is there. Its first answers may
/// get lost: the gateway subscribes to what it says only by and by.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// After how long a silence the socket is tried before it is relied on.
const STALE: Duration = Duration::from_secs(20);
/// How long a kernel may take to answer before it is ended.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The settings that matter to a kernel once it is there.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) kernel: KernelOptions,
    pub(super) link: LinkOptions,
    pub(super) start_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) reconnect_timeout: Duration,
    pub(super) silence_timeout: Duration,
    pub(super) give_up_after: Duration,
    pub(super) reattach: Option<Reattach>,
    pub(super) grace: Duration,
    pub(super) close_timeout: Duration,
}

/// Whether sessions outlive the process that has them.
#[derive(Clone, Debug)]
pub(super) struct Reattach {
    pub(super) service: String,
    pub(super) keep_for: Duration,
    /// From now on sessions are closed without ending their kernels.
    pub(super) hands_over: Arc<AtomicBool>,
}

/// How a kernel is known again by a process that goes on with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) service: String,
    pub(super) key: String,
    pub(super) keep_for: Duration,
    /// The socket's.
    session: String,
    /// The process's own: another one is another process, without the state.
    process: String,
    is_remote: bool,
    about: KernelInfo,
}

pub(super) struct Kernel {
    key: String,
    /// Whether another process has begun it.
    is_reattached: bool,
    endpoint: Arc<Endpoint>,
    /// Where it counts.
    _seat: Seat,
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
    /// Its gateway says that it has started the process anew, and nobody has answered since.
    is_suspect: bool,
    /// Whether it answers on control while it is busy, as far as is known.
    has_control: bool,
    /// Whether it need not be asked again before it is ended.
    answers: bool,
    /// Since when calls come to nothing.
    away_since: Option<Instant>,
    /// What was running then.
    pending: Option<Pending>,
    /// The number of the last request.
    last: u64,
    /// Numbers of requests, and what the kernel counted them as.
    cells: VecDeque<(u64, u64)>,
    /// What came of them late, and no cell has been told of.
    untold: Option<Late>,
}

/// What a kernel says about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct KernelInfo {
    #[serde(default)]
    implementation: String,
    #[serde(default)]
    pub(super) language_info: LanguageInfo,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct LanguageInfo {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) version: String,
}

impl KernelInfo {
    /// Whether kernels of this kind have a thread for their control channel.
    fn has_control(&self) -> bool {
        self.implementation == "ipython" || self.implementation.starts_with("xeus")
    }
}

/// Why a call came to nothing.
enum End {
    /// The kernel's process is gone, and that is proved.
    Died(String),
    Protocol(&'static str),
    /// The cell would not stop, and the kernel was ended for it.
    Killed,
    /// Nothing is known of the kernel.
    Unreachable(String),
    /// The kernel is there, and how the cell ended is not known.
    Missed,
    /// The kernel is there, and still at an earlier cell.
    Busy,
}

impl End {
    fn died(how: impl Into<String>) -> Self {
        Self::Died(how.into())
    }

    fn before_it_was_sent(self) -> Self {
        match self {
            Self::Unreachable(what) => Self::Unreachable(format!("it was not sent: {what}")),
            end => end,
        }
    }
}

impl From<wire::Malformed> for End {
    fn from(wire::Malformed(what): wire::Malformed) -> Self {
        Self::Protocol(what)
    }
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
        if let Some(kernel) = Self::find(fleet, key, settings, target) {
            return Ok(kernel);
        }
        let mut tried = Vec::new();
        let mut problem = None;
        let patience = Deadline::after(settings.request_timeout);
        loop {
            let Some(seat) = fleet.seat(key, &tried) else {
                // Those that are left have just not answered, and are not asked at once again.
                if let Some(wait) = fleet.next_try(&tried)
                    && patience.remaining().is_none_or(|left| wait < left)
                {
                    thread::sleep(wait.max(ASK_AGAIN / 10));
                    continue;
                }
                break;
            };
            tried.push(seat.place);
            match Self::start_at(seat, key, settings, target) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => problem = problem.or(Some(error)), // the first choice's says most
            }
        }
        Err(problem.unwrap_or_else(|| InterpreterError::start(fleet.all_are_away(), None)))
    }

    /// The kernel that a process that is gone has left for this key, if it was to be kept.
    ///
    /// Nobody is asked for it yet: whether it lives, and is the process that it was, the first call
    /// finds out as it does after an outage. So the gateway may be away just now.
    fn find(
        fleet: &Arc<Fleet>,
        key: &str,
        settings: &Arc<Settings>,
        target: &Arc<Target>,
    ) -> Option<Self> {
        let Reattach { service, .. } = settings.reattach.as_ref()?;
        let take = |seat: Seat| {
            let (held, kept) = Held::take_over(&seat.endpoint, service, key)?;
            Some((seat, held, kept))
        };
        let (seat, held, kept) = fleet.seats().find_map(take)?;
        let mut kernel = Self::new(seat, key, held, settings, target);
        kernel.endpoint.found_remote(kept.is_remote);
        kernel.session = kept.session;
        kernel.process = Some(kept.process);
        kernel.has_control = kept.about.has_control();
        kernel.about = kept.about;
        kernel.is_reattached = true;
        // It may be at a cell of the other's.
        kernel.last = 1;
        kernel.pending = Some(Pending::of_another(1));
        Some(kernel)
    }

    /// Has it written down by what the next process knows it again.
    fn keep(&mut self) {
        let Some(Reattach { service, keep_for, .. }) = &self.settings.reattach else { return };
        if let (Some(held), Some(process)) = (&mut self.held, &self.process) {
            held.keep(Kept {
                service: service.clone(),
                key: self.key.clone(),
                keep_for: *keep_for,
                session: self.session.clone(),
                process: process.clone(),
                is_remote: self.endpoint.is_remote(),
                about: self.about.clone(),
            });
        }
    }

    fn new(
        seat: Seat,
        key: &str,
        held: Held,
        settings: &Arc<Settings>,
        target: &Arc<Target>,
    ) -> Self {
        Self {
            key: key.to_owned(),
            is_reattached: false,
            endpoint: Arc::clone(&seat.endpoint),
            _seat: seat,
            settings: Arc::clone(settings),
            target: Arc::clone(target),
            id: held.id.clone(),
            held: Some(held),
            session: super::random_uuid(),
            client: super::random_uuid(),
            socket: None,
            about: KernelInfo::default(),
            process: None,
            is_suspect: false,
            has_control: false,
            answers: false,
            away_since: None,
            pending: None,
            last: 0,
            cells: VecDeque::new(),
            untold: None,
        }
    }

    fn start_at(
        seat: Seat,
        key: &str,
        settings: &Arc<Settings>,
        target: &Arc<Target>,
    ) -> Result<Self, InterpreterError> {
        let endpoint = Arc::clone(&seat.endpoint);
        let by = Deadline::after(settings.start_timeout);
        let answer_by = Deadline::after(settings.request_timeout);
        let started = endpoint.start(&settings.kernel, answer_by, by);
        let held = started.map_err(|error| refused(&endpoint, &error))?;
        // From here on it is ended if it is dropped.
        let mut kernel = Self::new(seat, key, held, settings, target);
        let not_ready = |why: &str| {
            InterpreterError::start(format!("the kernel at {}: {why}", endpoint.label), None)
        };
        kernel.connect(by).map_err(|Lost(why)| not_ready(&why))?;
        match kernel.greet(by, None) {
            Ok(true) => {
                kernel.has_control = kernel.about.has_control();
                kernel.keep();
                Ok(kernel)
            }
            Ok(false) => {
                let limit = settings.start_timeout;
                Err(not_ready(&format!("it was not ready within {limit:?}")))
            }
            Err(end) => Err(not_ready(&end.words())),
        }
    }

    /// Has the gateway start the kernel's process anew, and waits until it has answered.
    pub(super) fn restart(&mut self) -> Result<(), InterpreterError> {
        let by = Deadline::after(self.settings.start_timeout);
        if !self.is_within_reach(by) {
            let what = format!("the kernel at {} does not answer", self.endpoint.label);
            return Err(InterpreterError::start(what, None));
        }
        let restarted = self.endpoint.restart(&self.id, by);
        restarted.map_err(|error| refused(&self.endpoint, &error))?;
        self.process = None;
        self.pending = None;
        self.away_since = None;
        self.cells.clear();
        self.untold = None;
        self.is_reattached = false;
        match self.greet(by, None) {
            Ok(true) => {
                self.keep();
                Ok(())
            }
            Ok(false) => {
                let limit = self.settings.start_timeout;
                let what = format!("the kernel was not ready again within {limit:?}");
                Err(InterpreterError::start(what, None))
            }
            Err(end) => Err(InterpreterError::start(end.words(), None)),
        }
    }

    /// Ends the kernel, and waits until the gateway has said that it has.
    pub(super) fn close(mut self) -> Result<(), String> {
        let ended = self.end();
        let Self { id, endpoint, .. } = &self;
        ended.map_err(|error| {
            format!(
                "the kernel {id} at {} is not ended yet, which is tried again in the background: {error}",
                endpoint.label
            )
        })
    }

    fn end(&mut self) -> Result<(), RestError> {
        let Some(held) = self.held.take() else {
            return Ok(()); // already
        };
        let hands_over = |one: &Reattach| one.hands_over.load(Ordering::Relaxed);
        if self.settings.reattach.as_ref().is_some_and(hands_over) && !self.answers {
            drop(held); // it stays written down
            return Ok(());
        }
        let by = Deadline::after(self.settings.close_timeout);
        let ended = if self.endpoint.is_away() || !self.is_within_reach(by) {
            self.leave(held);
            Err(RestError::Unreachable("nothing is heard of it".to_owned()))
        } else {
            self.endpoint.end(held, by)
        };
        if let Some((mut link, _)) = self.socket.take() {
            link.leave(Goodbye::Normal);
        }
        ended
    }

    /// It is ended when it can be reached, or when the limit of its owner's has passed.
    fn leave(&self, held: Held) {
        let asks = self.endpoint.is_remote() && self.has_control && !self.answers;
        let since = self.away_since.unwrap_or_else(Instant::now);
        let ask_until = asks.then(|| since.checked_add(self.settings.give_up_after)).flatten();
        self.endpoint.leave(held, ask_until);
    }

    /// Whether the kernel answers, or need not be asked: to have one ended, or started anew, that is out
    /// of reach has a gateway of others' kernels stand still.
    fn is_within_reach(&mut self, by: Deadline) -> bool {
        if self.answers || !self.endpoint.is_remote() || !self.has_control {
            return true;
        }
        let by = by.earlier(Deadline::after(LAST_WORD));
        if self.socket.is_none() && self.connect(by).is_err() {
            return false;
        }
        let mut probes = Probes::default();
        let mut ask_at = Deadline::after(Duration::ZERO);
        while !by.has_passed() {
            if ask_at.has_passed() {
                self.probe_control(&mut probes, by);
                ask_at = Deadline::after(ASK_AGAIN);
            }
            let frame = match self.read(by.earlier(ask_at)) {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(_) => return false,
            };
            let Ok(message) = wire::decode(self.framing(), &frame) else { return true };
            let number = message.parent.as_deref().and_then(|id| self.number_of(id));
            if number.is_some_and(|number| probes.take(number, &message).is_ok())
                && probes.is_alive()
            {
                return true;
            }
        }
        false
    }

    /// What the caller is told.
    fn conclude(&mut self, end: End) -> InterpreterError {
        let label = &self.endpoint.label;
        match end {
            End::Died(how) => {
                self.answers = true; // what is there in its place is to go
                InterpreterError::died(how)
            }
            End::Protocol(what) => InterpreterError::protocol(what),
            End::Killed => InterpreterError::killed(Duration::ZERO),
            End::Missed => {
                self.away_since = None;
                InterpreterError::unreachable(format!(
                    "the connection to {label} was lost and is mended; what came of the cell was lost \
                     with the connection, and it may have run"
                ))
            }
            End::Busy => {
                self.away_since = None;
                InterpreterError::refused(
                    "the cell that ran when the session got out of reach still runs: wait for it, \
                     interrupt it, or reset the session",
                )
            }
            End::Unreachable(what) => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                let limit = self.settings.give_up_after;
                if since.elapsed() < limit {
                    return InterpreterError::unreachable(what);
                }
                if let Some(held) = self.held.take() {
                    self.leave(held);
                }
                InterpreterError::given_up(what, limit)
            }
        }
    }

    /// A call has come to its end.
    pub(super) fn is_reached(&mut self) {
        self.away_since = None;
    }

    pub(super) fn is_reattached(&self) -> bool {
        self.is_reattached
    }

    pub(super) fn is_away(&self) -> bool {
        self.away_since.is_some()
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
}

impl End {
    /// Of a kernel that is being started.
    fn words(self) -> String {
        match self {
            Self::Died(what) | Self::Unreachable(what) => what,
            Self::Protocol(what) => what.to_owned(),
            Self::Killed | Self::Missed | Self::Busy => "it does not answer".to_owned(),
        }
    }
}

/// A kernel that nobody closed is ended all the same.
impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn refused(endpoint: &Endpoint, error: &RestError) -> InterpreterError {
    InterpreterError::start(format!("the gateway at {}: {error}", endpoint.label), None)
}

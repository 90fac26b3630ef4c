//! The session's state, on its own thread, which alone reads, routes and writes.
//!
//! It is the state of a [`LoopThread`](crate::loop_thread::LoopThread): everybody else posts what the
//! owner is to do. A request of ours is posted with its frame and the inbox for its answers; the inbox is
//! entered before the frame is written, so that no answer can find nobody waiting. What is said on
//! behalf of a peer's request carries the number of the connection on which it was asked, and is let go
//! if that is gone.
//!
//! Here is how the session stands with its connection, from dialling to the end. [`connection`] is the
//! stream and what it waits for, [`reading`] takes apart what comes, [`writing`] sends, [`calls`] are our
//! requests, and [`requests`] the peer's.

mod calls;
mod connection;
mod reading;
mod requests;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use self::calls::Waiting;
use self::connection::Live;
use self::requests::Asked;
pub(super) use self::writing::Sending;
use super::backoff::Backoff;
use super::invoker::Invoker;
use super::request::Request;
use super::shared::{Down, Frame, Phase, Shared, count};
use super::transport::{Connect, Link, LinkOptions};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::event_loop::Scheduled;
use crate::loop_thread::LocalState;
use crate::session::error::Kind;
use crate::session::{Notification, RequestId, SessionError};
use crate::words::Span;

type Connected = anyhow::Result<Box<dyn Link>>;

/// What the user's code does. All but `connect` runs on the session's thread.
pub(super) struct Handlers {
    /// `None`: the peer's requests are answered with an error.
    pub(super) request: Option<Box<dyn Fn(Request) + Send>>,
    pub(super) notification: OnNotification,
    /// On a thread of its own, for each connection.
    pub(super) connect: Option<Arc<OnConnect>>,
    pub(super) close: Option<OnClose>,
}

pub(super) type OnNotification = Box<dyn Fn(&Invoker, Notification) + Send>;
pub(super) type OnConnect = dyn Fn(&Invoker) -> anyhow::Result<()> + Send + Sync;
pub(super) type OnClose = Box<dyn FnOnce(&SessionError) + Send>;

/// What is set once.
pub(super) struct Settings {
    pub(super) link: LinkOptions,
    pub(super) reconnect: Option<(Duration, Duration)>,
    /// Whether the first connection is tried again, too: nobody waits to be told that it failed.
    pub(super) tries_on: bool,
    /// Whether it dials only when it is told to.
    pub(super) is_held: bool,
    /// Whether it drains, ordered closed.
    pub(super) drains_on_close: bool,
    pub(super) greeting: Vec<Vec<u8>>,
    pub(super) heartbeat: Option<(Duration, Vec<u8>)>,
    pub(super) keep_alive_interval: Option<Duration>,
    pub(super) keep_alive_timeout: Option<Duration>,
    pub(super) drain_timeout: Duration,
    pub(super) max_requests: usize,
}

pub(super) struct Owner {
    shared: Arc<Shared>,
    local: LocalState<Owner>,
    handlers: Handlers,
    settings: Rc<Settings>,
    /// `None` while it dials.
    connector: Option<Box<dyn Connect>>,
    /// There has been a connection.
    was_up: bool,
    backoff: Option<Backoff>,
    live: Option<Live>,
    /// The number of the connection there is, or was last.
    connection: u64,
    waiters: HashMap<u64, Waiting>,
    requests: HashMap<RequestId, Asked>,
    /// What is to be sent once there is a connection, in order; of a request, its number with it.
    pending: BTreeMap<u64, (Option<u64>, Frame)>,
    next_place: u64,
    flush_is_due: bool,
    heard: Instant,
    /// By when it is to have closed.
    closing: Option<Deadline>,
    /// It closes as soon as the peer has been answered, and by then at the latest.
    draining: Option<Deadline>,
}

/// Something that is to happen later, unless this is dropped before.
struct Clock(Scheduled);

impl Clock {
    fn new(
        local: &LocalState<Owner>,
        at: Deadline,
        then: impl FnOnce(&mut Owner) + 'static,
    ) -> Option<Self> {
        at.remaining().map(|left| Self(local.call_later(left, then)))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Owner {
    /// The session begins, and dials.
    pub(super) fn new(
        shared: Arc<Shared>,
        local: LocalState<Self>,
        handlers: Handlers,
        settings: Settings,
        connector: Box<dyn Connect>,
    ) -> Self {
        let backoff = settings.reconnect.map(|(shortest, longest)| Backoff::new(shortest, longest));
        let mut owner = Self {
            shared,
            local,
            handlers,
            settings: settings.into(),
            connector: Some(connector),
            was_up: false,
            backoff,
            live: None,
            connection: 0,
            waiters: HashMap::new(),
            requests: HashMap::new(),
            pending: BTreeMap::new(),
            next_place: 0,
            flush_is_due: false,
            heard: Instant::now(),
            closing: None,
            draining: None,
        };
        if !owner.settings.is_held {
            owner.dial();
        }
        owner
    }

    pub(super) fn dial(&mut self) {
        let Some(mut connector) = self.connector.take() else { return };
        if !connector.blocks() {
            let link = contain(|| connector.connect(&self.settings.link)).and_then(|link| link);
            self.connector = Some(connector);
            self.connected(link);
            return;
        }
        let (shared, options) = (Arc::clone(&self.shared), self.settings.link.clone());
        let dials = thread::Builder::new().name("sessile-dial".to_owned()).spawn(move || {
            let link = contain(|| connector.connect(&options)).and_then(|link| link);
            let _ = shared.post(move |owner| {
                owner.connector = Some(connector);
                owner.connected(link);
            });
        });
        if let Err(error) = dials {
            // The connector went down with the thread that was not to be.
            self.gone(format!("no thread to connect on: {error}"));
        }
    }

    fn connected(&mut self, link: Connected) {
        if self.closing.is_some() {
            return; // and the link is dropped
        }
        let live = link.and_then(|link| Ok(self.watch(link)?));
        let live = match live {
            Ok(live) => live,
            Err(error) => return self.not_connected(error),
        };
        self.live = Some(live);
        self.connection += 1;
        self.heard = Instant::now();
        count(&self.shared.counts.connections);
        let settings = Rc::clone(&self.settings);
        for frame in &settings.greeting {
            self.queue(frame, 0);
        }
        self.heartbeat(self.connection);
        self.keep_alive(self.connection);
        // What came with the connection, the poller does not know of.
        self.local.call_soon(Self::read);
        match &self.handlers.connect {
            Some(greet) => self.greet(Arc::clone(greet)),
            None => self.greeted(),
        }
    }

    /// Has the user's code say what comes first on a connection, on a thread that may block. All else
    /// that is not about this connection waits for it.
    fn greet(&mut self, greet: Arc<OnConnect>) {
        self.flush();
        let (shared, connection) = (Arc::clone(&self.shared), self.connection);
        let greets = thread::Builder::new().name("sessile-connect".to_owned()).spawn(move || {
            let invoker = Invoker::on(Arc::clone(&shared), connection);
            let said = contain(|| greet(&invoker)).and_then(|said| said);
            let _ = shared.post(move |owner| {
                if owner.live.is_some() && owner.connection == connection {
                    match said {
                        Ok(()) => owner.greeted(),
                        Err(error) => owner.lost_by(error.context("on_connect failed")),
                    }
                }
            });
        });
        if let Err(error) = greets {
            self.lost_by(anyhow!(error).context("no thread for on_connect"));
        }
    }

    /// Everybody may call on this connection.
    fn greeted(&mut self) {
        let Some(live) = self.live.as_mut().filter(|live| live.input_is_open) else { return };
        live.is_greeted = true;
        self.was_up = true;
        self.shared.set_phase(Phase::Up); // before it is written to, for that may lose it
        while self.live.is_some()
            && let Some((_, (id, frame))) = self.pending.pop_first()
        {
            if let Some(waiting) = id.and_then(|id| self.waiters.get_mut(&id)) {
                waiting.unsent = None;
            }
            self.write(frame, false);
        }
        self.flush();
    }

    fn not_connected(&mut self, error: anyhow::Error) {
        self.backoff.iter_mut().for_each(Backoff::failed);
        self.failed(error);
    }

    /// There is no connection, and nobody was told why: it is tried again, if that may be.
    fn failed(&mut self, error: anyhow::Error) {
        if self.reconnects() && (self.was_up || self.settings.tries_on) {
            let why = format!("{error:#}");
            self.shared.report(&error.context("no connection could be made; it is tried again"));
            return self.dial_later(why);
        }
        let why = if self.was_up { format!("{error:#}") } else { NOBODY.to_owned() };
        if !self.was_up {
            self.shared.no_connection(error);
        }
        self.gone(why);
    }

    fn reconnects(&self) -> bool {
        let can = self.connector.as_ref().is_some_and(|connector| connector.can_reconnect());
        self.backoff.is_some() && can && self.closing.is_none()
    }

    /// Dials once more after a while, if that may be.
    fn dial_later(&mut self, why: String) {
        match &self.backoff {
            Some(backoff) if self.reconnects() => {
                self.shared.set_phase(Phase::Connecting);
                self.local.call_later(backoff.wait(), Self::dial);
            }
            _ => self.gone(why),
        }
    }

    /// There will be no connection any more. Nobody can use the session, so that its thread ends.
    fn gone(&mut self, why: String) {
        self.shared.set_phase(Phase::Down(Down::Lost(why.clone())));
        self.pending.clear();
        self.fail(|_| true, || Kind::Lost { why: why.clone() }.into());
        self.local.stop();
    }

    fn lost(&mut self, why: String) {
        self.lost_by(anyhow!(why));
    }

    /// The connection is lost: everybody who waits for something of it is told, at once.
    fn lost_by(&mut self, error: anyhow::Error) {
        let Some(live) = self.live.take() else { return };
        let why = format!("{error:#}");
        self.shared.written(live.unwritten);
        if let Some(backoff) = &mut self.backoff {
            backoff.lost(live.since.elapsed());
        }
        self.fail(|waiting| waiting.unsent.is_none(), || Kind::Lost { why: why.clone() }.into());
        let mut unanswered = live.answers.len() as u64;
        for asked in std::mem::take(&mut self.requests).into_values() {
            if let Some(scope) = asked.scope.upgrade() {
                scope.lose();
            }
        }
        drop(live);
        self.shared.counts.dropped_answers.fetch_add(unanswered, Ordering::Relaxed);
        if self.closing.is_some() {
            unanswered = 0; // it was closed before it could say all
        }
        if !self.was_up {
            return self.failed(error);
        }
        if unanswered > 0 {
            let what = match unanswered {
                1 => "the connection was lost, and an answer was not written".to_owned(),
                _ => format!("the connection was lost, and {unanswered} answers were not written"),
            };
            self.shared.report(&error.context(what));
        }
        self.dial_later(why);
    }

    /// The peer says no more: nothing that we have asked will be answered. What the peer has asked is
    /// answered first, unless there is another connection to be made: the [module](super::super) says
    /// why.
    fn input_ended(&mut self) {
        const WHY: &str = "the peer has closed it";
        let reconnects = self.reconnects();
        let Some(live) = self.live.as_mut().filter(|live| live.input_is_open) else { return };
        live.input_is_open = false;
        if reconnects {
            self.flush(); // an answer that is there already goes out, as far as the stream takes it
            return self.lost(WHY.to_owned());
        }
        if self.is_drained() {
            return self.lost(WHY.to_owned());
        }
        self.shared.set_phase(Phase::Ending(WHY.to_owned()));
        self.fail(|waiting| waiting.unsent.is_none(), || Kind::Lost { why: WHY.to_owned() }.into());
        if self.rewatch() {
            let (connection, limit) = (self.connection, self.settings.drain_timeout);
            self.local.call_later(limit, move |owner| {
                if owner.connection == connection && owner.live.is_some() {
                    owner.lost(format!(
                        "{WHY}, and what it had asked was not answered in {}",
                        Span(limit)
                    ));
                }
            });
            self.flush();
        }
    }

    /// Whether everything that the peer has asked is answered, and written.
    fn is_drained(&self) -> bool {
        // An answer is posted before it is posted that its request is over.
        self.live.as_ref().is_none_or(|live| !live.wants_to_write && live.unwritten == 0)
            && self.requests.is_empty()
    }

    /// Ends a connection that was only open still for what the peer has asked.
    fn end_if_drained(&mut self) {
        if self.closing.is_some() || !self.is_drained() {
            return;
        }
        if let Some(deadline) = self.draining {
            self.close(deadline.remaining().unwrap_or_default());
        } else if self.live.as_ref().is_some_and(|live| !live.input_is_open) {
            self.lost("the peer has closed it".to_owned());
        }
    }

    pub(super) fn ordered_closed(&mut self, within: Duration) {
        if self.settings.drains_on_close { self.drain(within) } else { self.close(within) }
    }

    /// Answers what the peer has asked, refuses what it asks from now on, and closes, within this time.
    pub(super) fn drain(&mut self, within: Duration) {
        if self.closing.is_some() || self.draining.is_some() {
            return;
        }
        if self.live.is_none() {
            return self.close(within);
        }
        self.read(); // what has come by now was asked before
        self.backoff = None;
        self.draining = Some(Deadline::after(within));
        // For what there is to be said at the end.
        let last = (within / 4).min(Duration::from_millis(250));
        self.local.call_later(within.saturating_sub(last), move |owner| {
            if owner.closing.is_none() {
                owner.close(last);
            }
        });
        self.end_if_drained();
    }

    pub(super) fn close(&mut self, within: Duration) {
        let deadline = Deadline::after(within);
        self.closing = Some(deadline);
        if !self.was_up {
            self.shared.no_connection(anyhow!("it was closed before there was a connection"));
        }
        self.shared.set_phase(Phase::Down(Down::Closed));
        self.pending.clear();
        self.fail(|_| true, || Kind::Closed.into());
        self.flush(); // hangs up if nothing is left
        match self.live.as_ref().map(|live| live.link.close_takes(within)) {
            // What the link needs for its end is not spent on writing.
            Some(takes) if !within.is_zero() => {
                self.local.call_later(within.saturating_sub(takes), Self::hang_up);
            }
            _ => self.hang_up(),
        }
    }

    fn hang_up(&mut self) {
        if let Some(mut live) = self.live.take() {
            self.shared.written(live.unwritten);
            let dropped = live.answers.len() as u64;
            self.shared.cut_off.fetch_add(dropped + self.unanswered(), Ordering::Relaxed);
            self.shared.counts.dropped_answers.fetch_add(dropped, Ordering::Relaxed);
            let left = self.closing.and_then(Deadline::remaining);
            live.link.close(left.unwrap_or(Duration::from_secs(3600)));
        }
        self.local.stop();
    }
}

impl Owner {
    /// How many requests of the peer's have no answer yet.
    fn unanswered(&self) -> u64 {
        let scopes = self.requests.values().filter_map(|asked| asked.scope.upgrade());
        scopes.filter(|scope| scope.holds_id()).count() as u64
    }
}

const NOBODY: &str = "no connection could be made";

/// Whatever has come of the thread, nobody is left waiting.
impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.set_phase(Phase::Down(Down::Closed));
        let down = self.shared.down().unwrap_or(Down::Closed);
        self.fail(|_| true, || down.error());
        let unanswered = self.unanswered();
        for scope in self.requests.values().filter_map(|asked| asked.scope.upgrade()) {
            scope.lose();
        }
        if let Some(live) = self.live.take() {
            self.shared.written(live.unwritten);
            let unanswered = live.answers.len() as u64 + unanswered;
            self.shared.cut_off.fetch_add(unanswered, Ordering::Relaxed);
        }
        if let Some(tell) = self.handlers.close.take().filter(|_| self.was_up) {
            let _ = contain(|| tell(&down.error()));
        }
    }
}

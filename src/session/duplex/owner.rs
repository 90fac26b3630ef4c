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
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use self::calls::Waiting;
use self::connection::Live;
use self::requests::Asked;
pub(super) use self::writing::Sending;
use super::backoff::Backoff;
use super::request::Request;
use super::shared::{Down, Frame, Phase, Shared, count};
use super::transport::{Connect, Link, LinkOptions};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::event_loop::Scheduled;
use crate::loop_thread::LocalState;
use crate::session::error::Kind;
use crate::session::{Payload, RequestId};

type Connected = anyhow::Result<Box<dyn Link>>;

/// What the user's code does with what the peer says. It runs on the session's thread.
pub(super) struct Handlers {
    pub(super) request: Box<dyn Fn(Request) + Send>,
    pub(super) notification: Box<dyn Fn(String, Option<Payload>) + Send>,
}

/// What is set once.
pub(super) struct Settings {
    pub(super) link: LinkOptions,
    pub(super) reconnect: Option<(Duration, Duration)>,
    pub(super) greeting: Vec<Vec<u8>>,
    pub(super) heartbeat: Option<(Duration, Vec<u8>)>,
    pub(super) silence: Option<Duration>,
    pub(super) max_requests: usize,
}

pub(super) struct Owner {
    shared: Arc<Shared>,
    local: LocalState<Owner>,
    handlers: Rc<Handlers>,
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
    closing: bool,
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
            handlers: handlers.into(),
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
            closing: false,
        };
        owner.dial();
        owner
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn dial(&mut self) {
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
        if self.closing {
            return;
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
        self.shared.set_phase(Phase::Up); // before it is written to, for that may lose it
        self.was_up = true;
        let settings = Rc::clone(&self.settings);
        for frame in &settings.greeting {
            self.queue(frame, 0);
        }
        self.heartbeat(self.connection);
        if let Some(silence) = settings.silence {
            self.watch_silence(self.connection, silence);
        }
        while self.live.is_some()
            && let Some((_, (id, frame))) = self.pending.pop_first()
        {
            if let Some(waiting) = id.and_then(|id| self.waiters.get_mut(&id)) {
                waiting.unsent = None;
            }
            self.write(frame);
        }
        self.flush();
        // What came with the connection, the poller does not know of.
        self.local.call_soon(Self::read);
    }

    fn not_connected(&mut self, error: anyhow::Error) {
        if !self.was_up {
            self.shared.no_connection(error);
            return self.gone("no connection could be made".to_owned());
        }
        self.backoff.iter_mut().for_each(Backoff::failed);
        self.dial_later(format!("{error:#}"));
    }

    /// Dials once more after a while, if that may be.
    fn dial_later(&mut self, why: String) {
        let can = self.connector.as_ref().is_some_and(|connector| connector.can_reconnect());
        match &self.backoff {
            Some(backoff) if can && !self.closing => {
                self.shared.set_phase(Phase::Connecting);
                self.local.call_later(backoff.wait(), Self::dial);
            }
            _ => self.gone(why),
        }
    }

    /// There will be no connection any more.
    fn gone(&mut self, why: String) {
        self.shared.set_phase(Phase::Down(Down::Lost(why.clone())));
        self.pending.clear();
        self.fail(|_| true, || Kind::Lost { why: why.clone() }.into());
        if self.closing {
            self.local.stop();
        }
    }

    /// The connection is lost: everybody who waits for something of it is told, at once.
    fn lost(&mut self, why: String) {
        let Some(live) = self.live.take() else { return };
        self.shared.written(live.unwritten);
        if let Some(backoff) = &mut self.backoff {
            backoff.lost(live.since.elapsed());
        }
        drop(live);
        self.fail(|waiting| waiting.unsent.is_none(), || Kind::Lost { why: why.clone() }.into());
        for asked in std::mem::take(&mut self.requests).into_values() {
            if let Some(scope) = asked.scope.upgrade() {
                scope.lose();
            }
        }
        self.dial_later(why);
    }

    pub(super) fn close(&mut self, within: Duration) {
        self.closing = true;
        if !self.was_up {
            self.shared.no_connection(anyhow!("it was closed before there was a connection"));
        }
        self.shared.set_phase(Phase::Down(Down::Closed));
        self.pending.clear();
        self.fail(|_| true, || Kind::Closed.into());
        self.flush(); // hangs up if nothing is left
        if self.live.is_none() || within.is_zero() {
            self.hang_up();
        } else {
            self.local.call_later(within, Self::hang_up);
        }
    }

    fn hang_up(&mut self) {
        if let Some(mut live) = self.live.take() {
            self.shared.written(live.unwritten);
            live.link.close();
        }
        self.local.stop();
    }
}

/// Whatever has come of the thread, nobody is left waiting.
impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.set_phase(Phase::Down(Down::Closed));
        let down = self.shared.down().unwrap_or(Down::Closed);
        self.fail(|_| true, || down.error());
        for scope in self.requests.values().filter_map(|asked| asked.scope.upgrade()) {
            scope.lose();
        }
        if let Some(live) = self.live.take() {
            self.shared.written(live.unwritten);
        }
    }
}

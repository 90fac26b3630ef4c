//! The session's own thread: it alone reads, routes and writes.
//!
//! Everybody else sends it [`Letter`]s. A request of ours comes as one letter, with its frame and the
//! inbox for its answers; the inbox is entered before the frame is written, so that no answer can find
//! nobody waiting. What is said on behalf of a peer's request carries the number of the connection on
//! which it was asked, and is let go if that is gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Overflow;
use super::backoff::Backoff;
use super::inbox::{Inbox, Pushed};
use super::request::{Request, Scope};
use super::shared::{Down, Frame, Phase, Shared, count};
use super::transport::{Connect, Link, LinkOptions};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::event_loop::{Interest, LocalHandle, Readiness, Scheduled, Source};
use crate::session::error::Kind;
use crate::session::{Incoming, Outgoing, Payload, RequestId, SessionError};

/// So many reads in a turn, so that letters and timers are not starved.
const READS: usize = 16;

type Connected = anyhow::Result<Box<dyn Link>>;

/// What others send to the session's thread.
pub(super) enum Letter {
    Send(Sending),
    /// Nobody waits for the answers any more. The session may have stopped reading for them.
    CallOff {
        id: u64,
        reads_on: bool,
    },
    /// Whoever awaits the answer after so many wants to be told when it is late: a runtime need not
    /// have a clock.
    Clock {
        id: u64,
        answers: u64,
        late: Deadline,
        waits: Duration,
    },
    /// A reader has caught up.
    ReadOn {
        id: u64,
    },
    /// A request of the peer's is over, on our side.
    Over {
        id: RequestId,
        connection: u64,
    },
    /// The end of a request is kept back, but no longer than until then.
    Hold(Weak<Scope>, Deadline),
    /// The one who dialled is back.
    Connected(Connected, Box<dyn Connect>),
    /// Says good-bye once all is written, or then.
    Close(Deadline),
}

/// A frame to be written. Dropped instead, it tells who waits for the answer.
pub(super) struct Sending {
    frame: Option<Frame>,
    waiter: Option<(u64, Arc<Inbox>)>,
    /// The connection that it is for; `None`: whichever there is.
    connection: Option<u64>,
}

impl Sending {
    /// For this connection; `None`: for whichever there is.
    pub(super) fn new(frame: Frame, connection: Option<u64>) -> Self {
        Self { frame: Some(frame), waiter: None, connection }
    }

    /// The answers to it go there.
    pub(super) fn answered_to(mut self, id: u64, inbox: Arc<Inbox>) -> Self {
        self.waiter = Some((id, inbox));
        self
    }

    fn fail(mut self, error: SessionError) {
        if let Some((_, inbox)) = self.waiter.take() {
            let _ = contain(|| inbox.end(Some(error)));
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some((_, inbox)) = self.waiter.take() {
            let _ = contain(|| inbox.end(Some(Kind::Closed.into())));
        }
    }
}

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
    local: LocalHandle,
    handlers: Rc<Handlers>,
    settings: Rc<Settings>,
    /// `None` while it dials.
    connector: Option<Box<dyn Connect>>,
    /// Who waits for the first connection.
    first: Option<mpsc::SyncSender<anyhow::Result<()>>>,
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

/// A request of ours.
struct Waiting {
    inbox: Arc<Inbox>,
    answers: u64,
    /// Until the next answer is late.
    clock: Option<Clock>,
    /// Its place among what is pending.
    unsent: Option<u64>,
}

/// A request of the peer's.
struct Asked {
    scope: Weak<Scope>,
    /// Until its end has been kept back for long enough.
    held: Option<Clock>,
}

/// Something that is to happen later, unless this is dropped before.
struct Clock(Scheduled);

impl Clock {
    fn new(local: &LocalHandle, at: Deadline, then: impl FnOnce() + 'static) -> Option<Self> {
        at.remaining().map(|left| Self(local.call_later(left, then)))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Live {
    link: Box<dyn Link>,
    since: Instant,
    reader: Source<OwnedFd>,
    writer: Option<Source<OwnedFd>>,
    /// Bytes of frames that were queued in the link and not written.
    unwritten: usize,
    wants_to_write: bool,
    /// The invocations whose inboxes are full, where that holds back all. Until each has room, nothing
    /// is read: one that catches up would let in more for the others.
    paused_for: HashSet<u64>,
}

thread_local! {
    static OWNER: RefCell<Option<Owner>> = const { RefCell::new(None) };
}

/// Does something with this thread's session, if it has not ended.
fn with(act: impl FnOnce(&mut Owner)) {
    OWNER.with(|owner| owner.borrow_mut().as_mut().map(act));
}

/// A letter has come.
pub(super) fn take(letter: Letter) {
    let mut letter = Some(letter);
    with(|owner| letter.take().into_iter().for_each(|letter| owner.take(letter)));
}

/// This thread's session begins.
pub(super) fn begin(
    shared: Arc<Shared>,
    local: LocalHandle,
    handlers: Handlers,
    settings: Settings,
    connector: Box<dyn Connect>,
    first: mpsc::SyncSender<anyhow::Result<()>>,
) {
    let backoff = settings.reconnect.map(|(shortest, longest)| Backoff::new(shortest, longest));
    let mut owner = Owner {
        shared,
        local,
        handlers: handlers.into(),
        settings: settings.into(),
        connector: Some(connector),
        first: Some(first),
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
    OWNER.set(Some(owner));
}

/// This thread's session ends: who waits is told.
pub(super) fn end() {
    drop(OWNER.take());
}

impl Owner {
    fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Send(sending) => self.send(sending),
            Letter::CallOff { id, reads_on } => self.call_off(id, reads_on),
            Letter::Clock { id, answers, late, waits } => {
                if let Some(waiting) = self.waiters.get_mut(&id)
                    && waiting.answers == answers
                {
                    let error = move || Some(Kind::TimedOut { waited: waits }.into());
                    let expire =
                        move || with(|owner| owner.give_up(id, |inbox| inbox.end(error())));
                    waiting.clock = Clock::new(&self.local, late, expire);
                }
            }
            Letter::ReadOn { id } => self.read_on(id),
            Letter::Over { id, connection } => {
                // Unless another has taken its id.
                let is_over = |asked: &Asked| asked.scope.strong_count() == 0;
                if connection == self.connection && self.requests.get(&id).is_some_and(is_over) {
                    self.requests.remove(&id);
                }
            }
            Letter::Hold(scope, until) => self.hold(scope, until),
            Letter::Connected(link, connector) => {
                self.connector = Some(connector);
                self.connected(link);
            }
            Letter::Close(deadline) => self.close(deadline),
        }
    }

    // ---- the connection -----------------------------------------------------------------------

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
            let _ = shared.post(Letter::Connected(link, connector));
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
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
        }
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
        self.local.call_soon(|| with(Owner::read));
    }

    fn watch(&self, link: Box<dyn Link>) -> io::Result<Live> {
        let (reader, writer) = link.sources()?;
        let ready = |_: &OwnedFd, ready| with(|owner| owner.ready(ready));
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

    fn not_connected(&mut self, error: anyhow::Error) {
        if let Some(first) = self.first.take() {
            let _ = first.send(Err(error));
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
                self.local.call_later(backoff.wait(), || with(Owner::dial));
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

    /// Tells those of our requests that there will be no answer.
    fn fail(&mut self, which: impl Fn(&Waiting) -> bool, error: impl Fn() -> SessionError) {
        for (_, waiting) in self.waiters.extract_if(|_, waiting| which(waiting)) {
            let _ = contain(|| waiting.inbox.end(Some(error())));
        }
    }

    fn close(&mut self, deadline: Deadline) {
        self.closing = true;
        if let Some(first) = self.first.take() {
            let _ = first.send(Err(anyhow::anyhow!("it was closed before there was a connection")));
        }
        self.shared.set_phase(Phase::Down(Down::Closed));
        self.pending.clear();
        self.fail(|_| true, || Kind::Closed.into());
        self.flush(); // hangs up if nothing is left
        match deadline.remaining() {
            _ if self.live.is_none() => self.local.stop(),
            None => {}
            Some(left) if left.is_zero() => self.hang_up(),
            Some(left) => drop(self.local.call_later(left, || with(Owner::hang_up))),
        }
    }

    fn hang_up(&mut self) {
        if let Some(mut live) = self.live.take() {
            self.shared.written(live.unwritten);
            live.link.close();
        }
        self.local.stop();
    }

    fn heartbeat(&mut self, connection: u64) {
        let settings = Rc::clone(&self.settings);
        if let Some((every, frame)) = &settings.heartbeat
            && connection == self.connection
            && self.live.is_some()
        {
            self.queue(frame, 0);
            self.flush();
            self.local.call_later(*every, move || with(|owner| owner.heartbeat(connection)));
        }
    }

    fn watch_silence(&mut self, connection: u64, silence: Duration) {
        let Some(live) = self.live.as_ref().filter(|_| connection == self.connection) else {
            return;
        };
        if live.is_paused() {
            self.heard = Instant::now(); // nobody listens
        }
        match silence.checked_sub(self.heard.elapsed()) {
            Some(left) if !left.is_zero() => {
                let again = move || with(|owner| owner.watch_silence(connection, silence));
                self.local.call_later(left, again);
            }
            _ => self.lost(format!("nothing was heard of the peer for {silence:?}")),
        }
    }

    // ---- writing ------------------------------------------------------------------------------

    fn send(&mut self, mut sending: Sending) {
        if let Some(down) = self.shared.down().filter(|_| self.live.is_none() || self.closing) {
            return sending.fail(down.error());
        }
        let is_gone = |connection| connection != self.connection || self.live.is_none();
        if sending.connection.is_some_and(is_gone) {
            let why = "the request was made on a connection that is gone".to_owned();
            if sending.waiter.is_none() {
                count(&self.shared.counts.dropped_answers);
            }
            return sending.fail(Kind::Lost { why }.into());
        }
        let (waiter, Some(frame)) = (sending.waiter.take(), sending.frame.take()) else { return };
        let id = waiter.as_ref().map(|(id, _)| *id);
        let unsent = self.live.is_none().then_some(self.next_place);
        if let Some((id, inbox)) = waiter {
            self.waiters.insert(id, Waiting { inbox, answers: 0, clock: None, unsent });
        }
        match unsent {
            None => {
                self.write(frame);
                self.flush_soon();
            }
            Some(place) => {
                self.next_place += 1;
                self.pending.insert(place, (id, frame));
            }
        }
    }

    fn write(&mut self, frame: Frame) {
        self.queue(frame.bytes(), frame.bytes().len());
        frame.on_its_way();
    }

    /// Queues a frame in the link, of which so many bytes are accounted for.
    fn queue(&mut self, frame: &[u8], accounted: usize) {
        let Some(live) = &mut self.live else { return self.shared.written(accounted) };
        live.unwritten += accounted;
        count(&self.shared.counts.frames_written);
        if let Err(error) = live.link.queue(frame) {
            self.lost(format!("a frame could not be written: {error}"));
        }
    }

    /// Writes at once if nothing else waits to be done; else after it, in one go.
    fn flush_soon(&mut self) {
        // What is due may be all that is left.
        if self.local.left_to_call() <= usize::from(self.flush_is_due) {
            self.flush();
        } else if !std::mem::replace(&mut self.flush_is_due, true) {
            self.local.call_soon(|| {
                with(|owner| {
                    owner.flush_is_due = false;
                    owner.flush();
                });
            });
        }
    }

    /// Watches the stream for what is wanted of it now. Says whether there is one still.
    fn rewatch(&mut self) -> bool {
        match self.live.as_ref().map(Live::watch) {
            Some(Err(error)) => {
                self.lost(format!("the stream cannot be watched: {error}"));
                false
            }
            watched => watched.is_some(),
        }
    }

    fn flush(&mut self) {
        let Some(live) = &mut self.live else { return };
        let left = match live.link.flush() {
            Ok(left) => left,
            Err(error) => return self.lost(format!("writing failed: {error}")),
        };
        let written = live.unwritten.saturating_sub(left);
        live.unwritten -= written;
        live.wants_to_write = left > 0;
        self.shared.written(written);
        if !self.rewatch() {
            return;
        }
        if self.closing && left == 0 {
            self.hang_up();
        }
    }

    // ---- reading ------------------------------------------------------------------------------

    fn ready(&mut self, ready: Readiness) {
        if ready.writable {
            self.flush();
        }
        if ready.readable {
            self.read();
        }
    }

    fn read(&mut self) {
        let mut messages = Vec::new();
        for turn in 0..READS {
            let Some(live) = self.live.as_mut().filter(|live| !live.is_paused()) else { return };
            let shared = &self.shared;
            let mut frames = 0;
            let more = live.link.read(&mut |frame| {
                frames += 1;
                if let Err(malformed) = shared.protocol.decode(frame, &mut messages) {
                    messages.push(Incoming::Malformed(malformed));
                }
            });
            shared.counts.frames_read.fetch_add(frames, Ordering::Relaxed);
            if self.settings.silence.is_some() {
                self.heard = Instant::now();
            }
            for message in messages.drain(..) {
                if self.live.is_none() {
                    break; // what one message led to
                }
                self.hear(message);
            }
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.lost("the peer has closed it".to_owned());
                }
                Err(error) => return self.lost(error.to_string()),
            }
            if turn + 1 == READS {
                // The poller does not know of what the link has read already.
                self.local.call_soon(|| with(Owner::read));
            }
        }
        self.flush(); // what reading has called for: the answer to a ping
    }

    fn hear(&mut self, message: Incoming) {
        match message {
            Incoming::Item { id, value } => self.answer(id, value),
            Incoming::Answer { id, value } => self.last_answer(id, value),
            Incoming::Failure { id: Some(id), error } => self.ended(id, Some(error.into())),
            Incoming::End { id } => self.ended(id, None),
            // Which request it is about can be told only if there is just one.
            Incoming::Failure { id: None, error } => match self.only_request() {
                Some(id) => self.ended(id, Some(error.into())),
                None => count(&self.shared.counts.unknown),
            },
            Incoming::Malformed(malformed) => {
                count(&self.shared.counts.malformed);
                if let Some(id) = malformed.answers()
                    && self.waiters.contains_key(&id)
                {
                    self.finish(id, Some(malformed.into()));
                }
            }
            Incoming::Request { id, within, method, params, meta } => {
                self.asked(id, within, method, params, meta);
            }
            Incoming::Cancel { id } => {
                if let Some(scope) = self.asked_as(&id) {
                    scope.call_off();
                }
            }
            Incoming::Notification { method, params, .. } => {
                let handlers = Rc::clone(&self.handlers);
                if contain(|| (handlers.notification)(method, params)).is_err() {
                    count(&self.shared.counts.panics);
                }
            }
            Incoming::Heartbeat => {}
        }
    }

    fn answer(&mut self, id: u64, value: Payload) {
        let Some(waiting) = self.waiters.get_mut(&id) else { return self.nobody_waits(id) };
        waiting.answers += 1;
        waiting.clock = None;
        // What wakes the reader may be foreign code.
        let pushed = contain(|| waiting.inbox.push(value)).unwrap_or(Pushed::Fits);
        if pushed == Pushed::Fits {
            return;
        }
        match self.shared.limits.overflow {
            Overflow::Fail => {
                count(&self.shared.counts.overflows);
                self.give_up(id, Inbox::overflow);
            }
            Overflow::Pause => {
                if waiting.inbox.pause()
                    && let Some(live) = &mut self.live
                {
                    live.paused_for.insert(id);
                    self.rewatch();
                }
            }
        }
    }

    /// An answer and the end of its request: in one, unless there is no room for it.
    fn last_answer(&mut self, id: u64, value: Payload) {
        let Some(waiting) = self.waiters.remove(&id) else { return self.nobody_waits(id) };
        if let Ok(Err(value)) = contain(|| waiting.inbox.push_last(value)) {
            self.waiters.insert(id, waiting);
            self.answer(id, value);
            self.finish(id, None);
        }
    }

    /// The peer says that there is no more. Where a failure has its end apart, that is awaited.
    fn ended(&mut self, id: u64, error: Option<SessionError>) {
        if !self.waiters.contains_key(&id) {
            return self.nobody_waits(id);
        }
        let end_follows = error.is_some() && self.shared.protocol.ends_apart();
        if end_follows {
            if let Some(waiting) = self.waiters.get(&id) {
                let _ = contain(|| waiting.inbox.end(error));
            }
        } else {
            self.finish(id, error);
        }
    }

    fn finish(&mut self, id: u64, error: Option<SessionError>) {
        if let Some(waiting) = self.waiters.remove(&id) {
            let _ = contain(|| waiting.inbox.end(error));
        }
    }

    /// The one request that the peer can be answering.
    fn only_request(&self) -> Option<u64> {
        let mut sent = self.waiters.iter().filter(|(_, waiting)| waiting.unsent.is_none());
        sent.next().map(|(id, _)| *id).filter(|_| sent.next().is_none())
    }

    fn nobody_waits(&self, id: u64) {
        let counts = &self.shared.counts;
        count(if self.shared.was_given_out(id) { &counts.late } else { &counts.unknown });
    }

    fn call_off(&mut self, id: u64, reads_on: bool) {
        self.give_up(id, |_| ());
        if reads_on {
            self.read_on(id);
        }
    }

    /// Nobody waits for the answers any more, who is told so by `end`. The request is not sent, or the
    /// peer is told.
    fn give_up(&mut self, id: u64, end: impl FnOnce(&Inbox)) {
        let Some(waiting) = self.waiters.remove(&id) else { return };
        match waiting.unsent {
            Some(place) => drop(self.pending.remove(&place)),
            None => self.tell_cancel(id),
        }
        let _ = contain(|| end(&waiting.inbox));
    }

    /// Tells the peer that nobody waits, if the protocol has words for it.
    fn tell_cancel(&mut self, id: u64) {
        if self.live.is_some()
            && let Ok(frame) = self.shared.encode_in_any_case(&Outgoing::Cancel { id })
        {
            self.send(Sending::new(frame, None));
        }
    }

    fn read_on(&mut self, id: u64) {
        if let Some(live) = &mut self.live
            && live.paused_for.remove(&id)
            && !live.is_paused()
        {
            self.heard = Instant::now();
            if self.rewatch() {
                self.read(); // what a poller does not tell of: bytes that the link has read already
            }
        }
    }

    fn asked(
        &mut self,
        id: RequestId,
        within: Option<u64>,
        method: String,
        params: Option<Payload>,
        meta: Option<Payload>,
    ) {
        count(&self.shared.counts.requests);
        if self.shared.is_choked() {
            // Each is answered, if with an error. Not to read on could leave both sides waiting.
            return self.lost("the peer asks on and on, and reads no answers".to_owned());
        }
        let before = self.asked_as(&id);
        if before.is_some_and(|scope| scope.holds_id()) {
            // It would be answered twice, and nobody could tell which is which.
            return count(&self.shared.counts.malformed);
        }
        let scope = Arc::new(Scope::new(id.clone(), Arc::clone(&self.shared), self.connection));
        let asked = Asked { scope: Arc::downgrade(&scope), held: None };
        let within = within.map(|id| (id, self.waiters.contains_key(&id)));
        let request = Request::new(scope, within, method, params, meta);
        if self.requests.len() >= self.settings.max_requests {
            return request.fail(&super::busy());
        }
        self.requests.insert(id, asked);
        let handlers = Rc::clone(&self.handlers);
        if contain(|| (handlers.request)(request)).is_err() {
            count(&self.shared.counts.panics);
        }
    }

    fn asked_as(&self, id: &RequestId) -> Option<Arc<Scope>> {
        self.requests.get(id).and_then(|asked| asked.scope.upgrade())
    }

    /// The request has been answered, and others may still call back on its behalf.
    fn hold(&mut self, scope: Weak<Scope>, until: Deadline) {
        // Nobody does any more; or it was never entered, for there were too many.
        let Some(id) = scope.upgrade().map(|scope| scope.id().clone()) else { return };
        if let Some(asked) = self.requests.get_mut(&id)
            && asked.scope.ptr_eq(&scope)
        {
            let end = move || scope.upgrade().into_iter().for_each(|scope| scope.end());
            asked.held = Clock::new(&self.local, until, end);
        }
    }
}

impl Live {
    fn is_paused(&self) -> bool {
        !self.paused_for.is_empty()
    }

    /// Watches for what there is to do.
    fn watch(&self) -> io::Result<()> {
        let (wants_to_write, paused) = (self.wants_to_write, self.is_paused());
        let reads = if paused { Interest::NONE } else { Interest::READABLE };
        match &self.writer {
            Some(writer) => {
                writer.watch_for(if wants_to_write {
                    Interest::WRITABLE
                } else {
                    Interest::NONE
                })?;
                self.reader.watch_for(reads)
            }
            None => self.reader.watch_for(match (paused, wants_to_write) {
                (false, true) => Interest::BOTH,
                (true, true) => Interest::WRITABLE,
                (_, false) => reads,
            }),
        }
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

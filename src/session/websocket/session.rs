//! Requests, answers and events over a [`Link`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::link::{Heard, Link};
use crate::deadline::Deadline;
use crate::session::error::{Kind, SessionError};
use crate::session::rfc6455::{Goodbye, Socket};
use crate::session::{Incoming, Notification, Outgoing, Payload, Protocol, RemoteError, RequestId};
use crate::words::Span;

/// How many messages are dealt with after a deadline, if they are there already.
const LATE_MESSAGES: usize = 256;
/// For how long a sign of life makes it needless to look for another before something is sent.
const FRESH: Duration = Duration::from_millis(1);

/// A conversation over a WebSocket, owned by the thread that uses it.
///
/// Every call runs on the calling thread, and whatever waits has a deadline. Answers may come in any
/// order; what the peer tells by itself is kept, in order, until
/// [`next_event`](Self::next_event) asks for it. Requests of the peer's are refused with "method not
/// found": who wants to serve them takes a duplex session.
///
/// See the [module](super) for when a session is broken, and for what nobody reads meanwhile.
pub struct WebSocketSession {
    link: Link,
    protocol: Arc<dyn Protocol>,
    settings: Settings,
    subprotocol: Option<String>,
    /// Tells the requests of this session from those of the one before.
    serial: u64,
    last_id: u64,
    waiting: HashMap<u64, Entry>,
    abandoned: Arc<Abandoned>,
    events: Events,
    /// Bytes of the answers that nobody has taken yet.
    held: usize,
    stats: SessionStats,
    /// The request whose answer the caller is waiting for.
    awaited: u64,
    /// How often something came that a caller may be waiting for.
    news: u64,
    last_pong: Vec<u8>,
    /// Why nothing more will be sent or read.
    broken: Option<Broken>,
    decoded: Vec<Incoming>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) request_timeout: Duration,
    pub(super) keep_alive_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) max_in_flight: usize,
    pub(super) max_message_size: usize,
    pub(super) answer_capacity: usize,
    pub(super) events: usize,
}

enum Broken {
    Lost(String),
    /// From afar, by an interrupt.
    Shut,
}

/// A request that is under way.
struct Entry {
    deadline: Deadline,
    /// When a peer that has said nothing by then is asked whether it is there.
    half_way: Deadline,
    timeout: Duration,
    /// How much had been received when it was sent.
    heard_before: u64,
    answer: Option<Result<Payload, SessionError>>,
}

impl Entry {
    fn held(&self) -> usize {
        match &self.answer {
            Some(Ok(payload)) => payload.as_str().len(),
            Some(Err(_)) | None => 0,
        }
    }
}

/// The answer to a request that [`begin`](WebSocketSession::begin) sent.
///
/// Dropping it gives the answer up. The peer is told, if the [`Protocol`] has words for that, when the
/// session is used next: only its owner writes.
///
/// ```no_run
/// # use sessile::session::websocket::WebSocketManager;
/// let mut session = WebSocketManager::new("ws://127.0.0.1:9000")?.connect()?;
/// let (first, second) = (session.begin("add", [1, 2])?, session.begin("add", [3, 4])?);
/// drop(first);
/// let sum: u32 = session.wait(second)?.parse()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[must_use = "the answer is given up when this is dropped"]
pub struct PendingAnswer {
    serial: u64,
    id: u64,
    abandoned: Weak<Abandoned>,
}

/// The requests whose answers were given up since the session was last used.
#[derive(Default)]
struct Abandoned {
    any: AtomicBool,
    ids: Mutex<Vec<u64>>,
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        if let Some(abandoned) = self.abandoned.upgrade() {
            abandoned.ids.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
            abandoned.any.store(true, Ordering::Release);
        }
    }
}

impl fmt::Debug for PendingAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAnswer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The events that nobody has taken yet.
#[derive(Default)]
struct Events {
    queue: VecDeque<Notification>,
    bytes: usize,
    /// Some before the first are missing, and nobody has been told.
    gap: bool,
}

/// What a session has done and seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionStats {
    /// Requests that are under way, or have answers that nobody has taken.
    pub in_flight: u64,
    /// Requests that got no answer in time.
    pub timed_out: u64,
    /// Answers that nobody waited for any more: late, given up, or a second one.
    pub late: u64,
    /// Answers to requests that were never made, and errors that belong to no request.
    pub unknown: u64,
    /// Messages that could not be understood. Each failed the request that it named, if any.
    pub malformed: u64,
    /// Messages that were over the limit and passed over. Each failed the request that it answered, if
    /// that could be told.
    pub too_large: u64,
    /// Events that were dropped, the oldest first, since nobody took them.
    pub dropped_events: u64,
    /// Answers that were not the last to their request. Only the last is kept.
    pub partial: u64,
    /// Requests of the peer's, which were refused.
    pub refused: u64,
}

impl WebSocketSession {
    pub(super) fn new(
        link: Link,
        protocol: Arc<dyn Protocol>,
        settings: Settings,
        subprotocol: Option<String>,
    ) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            link,
            protocol,
            settings,
            subprotocol,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            last_id: 0,
            waiting: HashMap::new(),
            abandoned: Arc::default(),
            events: Events::default(),
            held: 0,
            stats: SessionStats::default(),
            awaited: 0,
            news: 0,
            last_pong: Vec::new(),
            broken: None,
            decoded: Vec::new(),
        }
    }

    // ---- requests -----------------------------------------------------------------------------

    /// Asks, and waits for the answer, for as long as the manager's
    /// [`request_timeout`](super::WebSocketBuilder::request_timeout).
    ///
    /// Parameters that are `null` in JSON, such as `()`, are left out. They may be given by reference.
    ///
    /// # Errors
    ///
    /// The peer [answered with an error](SessionError::remote); no answer came
    /// [in time](SessionError::is_timeout); the connection [is lost](SessionError::is_lost); what came
    /// [cannot be understood](SessionError::is_malformed) or is
    /// [too large](SessionError::is_too_large). Nothing is ever sent a second time.
    pub fn request(
        &mut self,
        method: &str,
        params: impl Serialize,
    ) -> Result<Payload, SessionError> {
        self.request_timeout(method, params, self.settings.request_timeout)
    }

    /// [`request`](Self::request), waiting no longer than this.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn request_timeout(
        &mut self,
        method: &str,
        params: impl Serialize,
        timeout: Duration,
    ) -> Result<Payload, SessionError> {
        let id = self.send_request(method, params, timeout)?;
        self.await_answer(id)
    }

    /// [`request`](Self::request), with the answer read as an `R`.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); and if the answer is something else than an `R`.
    pub fn call<R>(&mut self, method: &str, params: impl Serialize) -> Result<R, SessionError>
    where
        R: DeserializeOwned,
    {
        self.call_timeout(method, params, self.settings.request_timeout)
    }

    /// [`call`](Self::call), waiting no longer than this.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_timeout<R>(
        &mut self,
        method: &str,
        params: impl Serialize,
        timeout: Duration,
    ) -> Result<R, SessionError>
    where
        R: DeserializeOwned,
    {
        let answer = self.request_timeout(method, params, timeout)?;
        answer.parse().map_err(|error| Kind::Json(error).into())
    }

    /// Asks, and does not wait. The answer is to be fetched by [`wait`](Self::wait), in whatever order.
    ///
    /// The time for the answer runs from now.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request), as far as sending goes; and if
    /// [too many](super::WebSocketBuilder::max_in_flight) are under way
    /// ([`is_full`](SessionError::is_full)).
    pub fn begin(
        &mut self,
        method: &str,
        params: impl Serialize,
    ) -> Result<PendingAnswer, SessionError> {
        self.begin_timeout(method, params, self.settings.request_timeout)
    }

    /// [`begin`](Self::begin), with another time for the answer.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub fn begin_timeout(
        &mut self,
        method: &str,
        params: impl Serialize,
        timeout: Duration,
    ) -> Result<PendingAnswer, SessionError> {
        let id = self.send_request(method, params, timeout)?;
        let abandoned = Arc::downgrade(&self.abandoned);
        Ok(PendingAnswer { serial: self.serial, id, abandoned })
    }

    /// Waits for the answer to a request that was [begun](Self::begin), until its time is over.
    ///
    /// An answer that has come is there also after its time, and after the session has broken.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request). A request of another session, such as the one that this one took
    /// the place of, [is lost](SessionError::is_lost).
    pub fn wait(&mut self, pending: PendingAnswer) -> Result<Payload, SessionError> {
        self.check_ours(&pending)?;
        self.await_answer(pending.id)
    }

    /// [`wait`](Self::wait) for at most `timeout`, without giving up: `None` if there is no answer by
    /// then, and there is still time for it.
    ///
    /// Once it has given anything but `None`, the answer is gone.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn try_wait(
        &mut self,
        pending: &PendingAnswer,
        timeout: Duration,
    ) -> Result<Option<Payload>, SessionError> {
        self.check_ours(pending)?;
        self.await_answer_until(pending.id, Deadline::after(timeout))
    }

    /// Tells the peer something, and wants no answer. Waits only until it is written.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request), as far as sending goes.
    pub fn notify(&mut self, method: &str, params: impl Serialize) -> Result<(), SessionError> {
        let params = Payload::params(&params).map_err(Kind::Json)?;
        self.prepare()?;
        let message = Outgoing::Notification { method, params: params.as_ref() };
        let timeout = self.settings.request_timeout;
        self.send(&message, Deadline::after(timeout), timeout)
    }

    fn send_request(
        &mut self,
        method: &str,
        params: impl Serialize,
        timeout: Duration,
    ) -> Result<u64, SessionError> {
        let params = Payload::params(&params).map_err(Kind::Json)?;
        self.prepare()?;
        self.make_room()?;
        let id = self.last_id + 1;
        self.last_id = id;
        let deadline = Deadline::after(timeout);
        let entry = Entry {
            deadline,
            half_way: Deadline::after(timeout / 2),
            timeout,
            heard_before: self.link.received(),
            answer: None,
        };
        // Known before a byte leaves: an answer may come while the rest is being written.
        self.waiting.insert(id, entry);
        let message = Outgoing::Request { id, within: None, method, params: params.as_ref() };
        match self.send(&message, deadline, timeout) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.waiting.remove(&id);
                Err(error)
            }
        }
    }

    /// What must be so before anything is sent.
    fn prepare(&mut self) -> Result<(), SessionError> {
        self.check_whole()?;
        self.let_go_of_abandoned()?;
        // The peer may have said goodbye while nobody read. And what it has said before is no sign of
        // life for what is asked now.
        if self.link.heard_at().elapsed() >= FRESH {
            self.settle()?;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), SessionError> {
        let max = self.settings.max_in_flight;
        if self.waiting.len() >= max {
            return Err(Kind::Full { what: "too many requests are under way" }.into());
        }
        Ok(())
    }

    fn send(
        &mut self,
        message: &Outgoing<'_>,
        until: Deadline,
        timeout: Duration,
    ) -> Result<(), SessionError> {
        let mut frame = Vec::with_capacity(128);
        self.protocol.encode(message, &mut frame)?;
        if let Err(error) = self.link.put(&frame) {
            // These are found before anything is written.
            let harmless = error.is_too_large() || error.is_unsupported();
            return Err(if harmless { error } else { self.fail(error) });
        }
        loop {
            match self.link.flush(until) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.fail(error)),
            }
            if until.has_passed() {
                // What is left must not go out later, behind the back of a caller who was told
                // that it has failed; and without it, nothing else can.
                self.lose("the peer did not read what was sent");
                return Err(Kind::TimedOut { waited: timeout }.into());
            }
            // The peer may be waiting for us to read, before it reads on.
            self.settle()?;
        }
    }

    // ---- answers ------------------------------------------------------------------------------

    fn check_ours(&self, pending: &PendingAnswer) -> Result<(), SessionError> {
        if pending.serial == self.serial {
            return Ok(());
        }
        let why = "the request was made in another session".to_owned();
        Err(Kind::Lost { why }.into())
    }

    fn await_answer(&mut self, id: u64) -> Result<Payload, SessionError> {
        let answer = self.await_answer_until(id, Deadline::NEVER)?;
        Ok(answer.expect("without a deadline of its own it waits until that of the request"))
    }

    /// `None` once `patience` has passed and the request's own deadline has not.
    fn await_answer_until(
        &mut self,
        id: u64,
        patience: Deadline,
    ) -> Result<Option<Payload>, SessionError> {
        self.awaited = id;
        let mut asked = false;
        let mut late = LATE_MESSAGES;
        loop {
            let Some(entry) = self.waiting.get(&id) else {
                let why = "the answer has been taken already".to_owned();
                return Err(Kind::Lost { why }.into());
            };
            if entry.answer.is_some() {
                return self.take_answer(id).map(Some);
            }
            let Entry { deadline, half_way, timeout, heard_before, .. } = *entry;
            if let Err(error) = self.check_whole() {
                self.waiting.remove(&id);
                return Err(error);
            }
            let ask = self.link.pings() && !asked && self.link.received() == heard_before;
            let until = if ask { half_way.earlier(deadline) } else { deadline }.earlier(patience);
            let read = match self.step(until) {
                Ok(read) => read,
                // It may have come all the same, before what broke the session.
                Err(_) if self.waiting.get(&id).is_some_and(|entry| entry.answer.is_some()) => {
                    continue;
                }
                Err(error) => {
                    self.waiting.remove(&id);
                    return Err(error);
                }
            };
            let over = deadline.has_passed() || patience.has_passed();
            if read && over {
                late -= 1;
            }
            if read && late > 0 {
                continue;
            }
            if deadline.has_passed() {
                return Err(self.give_up(id, heard_before, timeout));
            }
            if over {
                return Ok(None);
            }
            if ask && half_way.has_passed() {
                // One that is only slow says so, and its session outlives the request.
                asked = true;
                self.ask()?;
            }
        }
    }

    fn take_answer(&mut self, id: u64) -> Result<Payload, SessionError> {
        let entry = self.waiting.remove(&id).expect("it was looked at");
        self.held -= entry.held();
        entry.answer.expect("it was looked at")
    }

    fn give_up(&mut self, id: u64, heard_before: u64, timeout: Duration) -> SessionError {
        self.waiting.remove(&id);
        self.stats.timed_out += 1;
        if self.link.received() == heard_before {
            self.lose(&format!("nothing was heard from the peer for {}", Span(timeout)));
        } else {
            let _ = self.tell_cancel(id);
        }
        Kind::TimedOut { waited: timeout }.into()
    }

    /// Tells the peer that nobody waits for an answer any more, if the protocol has words for that. What
    /// cannot be written at once is written before the next read.
    fn tell_cancel(&mut self, id: u64) -> Result<(), SessionError> {
        let mut frame = Vec::new();
        if self.protocol.encode(&Outgoing::Cancel { id }, &mut frame).is_err() {
            return Ok(());
        }
        self.guard(|link| {
            link.put(&frame)?;
            link.flush(Deadline::after(Duration::ZERO)).map(drop)
        })
    }

    /// Forgets the requests that were given up by dropping their [`PendingAnswer`], and tells the peer.
    fn let_go_of_abandoned(&mut self) -> Result<(), SessionError> {
        if !self.abandoned.any.swap(false, Ordering::Acquire) {
            return Ok(());
        }
        let mut ids = self.abandoned.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = mem::take(&mut *ids);
        drop(ids);
        for id in given_up {
            // One that was waited for is gone already.
            let Some(entry) = self.waiting.remove(&id) else { continue };
            self.held -= entry.held();
            if entry.answer.is_none() {
                self.tell_cancel(id)?;
            }
        }
        Ok(())
    }

    // ---- events -------------------------------------------------------------------------------

    /// The next thing that the peer told by itself, waiting for it no longer than `timeout`.
    ///
    /// Events come in the order in which the peer sent them. What has come is there also after the
    /// session has broken.
    ///
    /// # Errors
    ///
    /// If there was no room for them, the oldest are dropped and
    /// [counted](SessionStats::dropped_events), and this is [told](SessionError::is_overflow) once, before
    /// the first event after the gap; the next call goes on. Otherwise as [`request`](Self::request).
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Notification>, SessionError> {
        let deadline = Deadline::after(timeout);
        let mut late = LATE_MESSAGES;
        loop {
            if mem::take(&mut self.events.gap) {
                return Err(Kind::Overflow.into());
            }
            if let Some(event) = self.events.take() {
                return Ok(Some(event));
            }
            self.check_whole()?;
            match self.step(deadline) {
                Ok(true) if late > 0 => late -= usize::from(deadline.has_passed()),
                Ok(_) => return Ok(None),
                Err(_) if !self.events.queue.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next thing that the peer told by itself, if it is here already. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event).
    pub fn try_event(&mut self) -> Result<Option<Notification>, SessionError> {
        self.next_event(Duration::ZERO)
    }

    /// Reads, for up to `timeout`, until there is something new: an event, or an answer to a request
    /// that was [begun](Self::begin). Says whether there is.
    ///
    /// While nobody reads, the peer's pings are not answered, and it may hang up. A thread that has
    /// nothing to say for long calls this from time to time, with a timeout of zero if it has better
    /// things to do than to wait.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn poll(&mut self, timeout: Duration) -> Result<bool, SessionError> {
        self.check_whole()?;
        let (deadline, before) = (Deadline::after(timeout), self.news);
        self.settle()?;
        let mut late = LATE_MESSAGES;
        while self.news == before && late > 0 && self.step(deadline)? {
            late -= usize::from(deadline.has_passed());
        }
        Ok(self.news != before)
    }

    // ---- how it is ----------------------------------------------------------------------------

    /// Pings the peer and waits for the pong, no longer than the manager's
    /// [`keep_alive_timeout`](super::WebSocketBuilder::keep_alive_timeout). Says how long it took.
    ///
    /// # Errors
    ///
    /// If there is no pong in time, whatever else may come: the session is then broken. Otherwise as
    /// [`request`](Self::request).
    pub fn ping(&mut self) -> Result<Duration, SessionError> {
        self.check_whole()?;
        self.settle()?;
        let (begun, timeout) = (Instant::now(), self.settings.keep_alive_timeout);
        let deadline = Deadline::after(timeout);
        let mark = self.ask()?;
        while self.last_pong != mark {
            if !self.step(deadline)? || deadline.has_passed() {
                self.lose(&format!("no answer to a ping in {}", Span(timeout)));
                return Err(Kind::TimedOut { waited: timeout }.into());
            }
        }
        Ok(begun.elapsed())
    }

    /// Whether nothing more can be sent or read. Does no I/O: that the peer has gone is not known
    /// before somebody reads.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.broken.is_some() || self.link.socket().was_shut()
    }

    /// Reads until the session is [closed](Self::is_closed), for no longer than this; what comes
    /// meanwhile is kept. Says whether it is.
    pub fn wait_closed(&mut self, timeout: Duration) -> bool {
        let deadline = Deadline::after(timeout);
        while !self.is_closed() && !deadline.has_passed() {
            let _ = self.step(deadline);
        }
        self.is_closed()
    }

    /// How many requests are under way, or have answers that nobody has taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Tells what the session has done and seen so far.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        SessionStats { in_flight: self.waiting.len() as u64, ..self.stats.clone() }
    }

    /// The subprotocol that the peer chose, if any was asked for.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// The address of the peer.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        self.link.peer_addr()
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        self.link.socket()
    }

    /// Says goodbye, waits for the peer's, and hangs up: at the manager's
    /// [`close_timeout`](super::WebSocketBuilder::close_timeout) at the latest.
    ///
    /// Dropping a session says goodbye too, if that can be done at once, and does not wait.
    ///
    /// # Errors
    ///
    /// If the peer did not answer. The connection is closed all the same. A session that is broken is
    /// just dropped, and that is no error.
    pub fn close(mut self) -> Result<(), SessionError> {
        if self.check_whole().is_err() {
            return Ok(());
        }
        let timeout = self.settings.close_timeout;
        let closed = self.link.close(Deadline::after(timeout), timeout);
        self.broken = Some(Broken::Shut);
        closed
    }

    fn check_whole(&mut self) -> Result<(), SessionError> {
        if self.broken.is_none() && self.link.socket().was_shut() {
            self.broken = Some(Broken::Shut);
        }
        match &self.broken {
            None => Ok(()),
            Some(Broken::Shut) => Err(Kind::Closed.into()),
            Some(Broken::Lost(why)) => Err(Kind::Lost { why: why.clone() }.into()),
        }
    }

    fn lose(&mut self, why: &str) {
        self.fail(Kind::Lost { why: why.to_owned() }.into());
    }

    /// From here on nothing is sent or read.
    fn fail(&mut self, error: SessionError) -> SessionError {
        if self.broken.is_none() {
            self.link.socket().shut();
            self.broken = Some(match error.kind() {
                Kind::Closed => Broken::Shut,
                Kind::Lost { why } => Broken::Lost(why.clone()),
                _ => Broken::Lost(error.to_string()),
            });
        }
        error
    }

    fn guard<R>(
        &mut self,
        run: impl FnOnce(&mut Link) -> Result<R, SessionError>,
    ) -> Result<R, SessionError> {
        run(&mut self.link).map_err(|error| self.fail(error))
    }

    fn ask(&mut self) -> Result<[u8; 8], SessionError> {
        self.guard(Link::ping)
    }

    // ---- reading ------------------------------------------------------------------------------

    /// Reads one message and deals with it. Says whether there was one by then.
    fn step(&mut self, until: Deadline) -> Result<bool, SessionError> {
        self.let_go_of_abandoned()?;
        loop {
            let duty = self.link.next_duty();
            match self.guard(|link| link.read(until.earlier(duty)))? {
                Some(heard) => {
                    let dealt_with = self.deal_with(heard);
                    return dealt_with.map(|()| true).map_err(|error| self.fail(error));
                }
                None => self.guard(Link::tend)?,
            }
            if until.has_passed() {
                return Ok(false);
            }
        }
    }

    /// Deals with what is there already, and does not wait.
    fn settle(&mut self) -> Result<(), SessionError> {
        let now = Deadline::after(Duration::ZERO);
        for _ in 0..LATE_MESSAGES {
            if !self.step(now)? {
                break;
            }
        }
        Ok(())
    }

    fn deal_with(&mut self, heard: Heard) -> Result<(), SessionError> {
        let frame = match heard {
            Heard::Text(text) => text.into_bytes(),
            Heard::Binary(bytes) => bytes,
            Heard::Pong(of) => {
                self.last_pong = of;
                return Ok(());
            }
            Heard::Ping(_) => return Ok(()),
            Heard::TooLarge(size, head, tail) => {
                self.stats.too_large += 1;
                if let Some(id) = self.protocol.answer_id(&head, &tail) {
                    let limit = self.settings.max_message_size;
                    self.fail_request(id, Kind::TooLarge { size, limit }.into());
                }
                return Ok(());
            }
            Heard::Goodbye { why, .. } => return Err(Kind::Lost { why }.into()),
        };
        let mut decoded = mem::take(&mut self.decoded);
        let understood = self.protocol.decode(&frame, &mut decoded);
        if let Err(malformed) = understood {
            decoded.push(Incoming::Malformed(malformed));
        }
        let taken = decoded.drain(..).try_for_each(|incoming| self.take(incoming));
        decoded.shrink_to(16); // a batch may have been large
        self.decoded = decoded;
        taken
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), SessionError> {
        match incoming {
            Incoming::Answer { id, value } => self.take_in(id, Ok(value)),
            Incoming::Failure { id: Some(id), error } => self.take_in(id, Err(error.into())),
            // Which request it is about can be told only if there is just one.
            Incoming::Failure { id: None, error } => {
                let mut open = self.waiting.iter().filter(|(_, entry)| entry.answer.is_none());
                match (open.next().map(|(id, _)| *id), open.next()) {
                    (Some(id), None) => self.take_in(id, Err(error.into())),
                    _ => self.stats.unknown += 1,
                }
            }
            Incoming::End { id } => {
                if self.waiting.get(&id).is_some_and(|entry| entry.answer.is_none()) {
                    self.take_in(id, Ok(Payload::null()));
                }
            }
            Incoming::Item { .. } => self.stats.partial += 1,
            Incoming::Malformed(malformed) => {
                self.stats.malformed += 1;
                if let Some(id) = malformed.answers() {
                    self.fail_request(id, malformed.into());
                }
            }
            Incoming::Batch(messages) => {
                return messages.into_iter().try_for_each(|message| self.take(message));
            }
            Incoming::Progress { .. } => self.stats.partial += 1,
            Incoming::Notification { method, params, meta } => {
                self.news += 1;
                let Settings { events, answer_capacity, .. } = self.settings;
                let event = Notification { method, params, meta };
                self.stats.dropped_events += self.events.put(event, events, answer_capacity);
            }
            Incoming::Request { id, .. } => return self.refuse(&id),
            Incoming::Cancel { .. } | Incoming::Heartbeat => {}
        }
        Ok(())
    }

    /// Fails a request, if it is waiting for its answer still.
    fn fail_request(&mut self, id: u64, error: SessionError) {
        if self.waiting.get(&id).is_some_and(|entry| entry.answer.is_none()) {
            self.take_in(id, Err(error));
        }
    }

    fn take_in(&mut self, id: u64, answer: Result<Payload, SessionError>) {
        match self.waiting.get_mut(&id) {
            Some(entry) if entry.answer.is_none() => {
                let size = answer.as_ref().map_or(0, |payload| payload.as_str().len());
                let fits = id == self.awaited
                    || self.held.saturating_add(size) <= self.settings.answer_capacity;
                entry.answer = Some(if fits { answer } else { Err(Kind::Overflow.into()) });
                self.held += entry.held();
                self.news += 1;
            }
            Some(_) => self.stats.late += 1,
            None if (1..=self.last_id).contains(&id) => self.stats.late += 1,
            None => self.stats.unknown += 1,
        }
    }

    /// What cannot be written at once is written before the next read; if that never happens, since
    /// the peer reads nothing, the link gives it up.
    fn refuse(&mut self, to: &RequestId) -> Result<(), SessionError> {
        self.stats.refused += 1;
        let error = RemoteError::new("method not found").with_code(RemoteError::METHOD_NOT_FOUND);
        let mut frame = Vec::new();
        match self.protocol.encode(&Outgoing::Failure { to, error: &error }, &mut frame) {
            Ok(()) => {
                self.link.put(&frame)?;
                self.link.flush(Deadline::after(Duration::ZERO)).map(drop)
            }
            Err(_) => Ok(()), // in a protocol that has no such thing
        }
    }
}

fn size_of_event(Notification { method, params, meta, .. }: &Notification) -> usize {
    let payloads = [params, meta].into_iter().flatten();
    payloads.fold(method.len(), |size, payload| size + payload.as_str().len())
}

impl Events {
    fn take(&mut self) -> Option<Notification> {
        let event = self.queue.pop_front()?;
        self.bytes -= size_of_event(&event);
        Some(event)
    }

    /// Says how many had to go.
    fn put(&mut self, event: Notification, capacity: usize, max_bytes: usize) -> u64 {
        self.bytes += size_of_event(&event);
        self.queue.push_back(event);
        let mut dropped = 0;
        while self.queue.len() > capacity || self.bytes > max_bytes {
            self.take();
            dropped += 1;
        }
        // Who wants none misses none.
        self.gap |= dropped > 0 && capacity > 0;
        dropped
    }
}

impl Drop for WebSocketSession {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.link.leave(Goodbye::GoingAway);
        }
    }
}

/// Tells how it is, and nothing of what was said.
impl fmt::Debug for WebSocketSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketSession")
            .field("peer", &self.link.peer_addr().ok())
            .field("closed", &self.is_closed())
            .field("in_flight", &self.waiting.len())
            .field("events", &self.events.queue.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

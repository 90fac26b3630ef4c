//! What a session's handles and its thread have in common: limits, counts, and the way to the thread.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thread_local::ThreadLocal;

use super::owner::Owner;
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::loop_thread::StateHandle;
use crate::session::error::Kind;
use crate::session::{Outgoing, Protocol, SessionError};

/// Ids are given out to threads so many at a time.
const IDS: u64 = 1 << 10;
/// A scratch buffer that has grown beyond this is not kept.
const SCRATCH: usize = 64 * 1024;

/// Who is told of what no caller is told.
pub(super) type OnError = Arc<dyn Fn(&anyhow::Error) + Send + Sync>;

pub(super) struct Shared {
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) limits: Limits,
    pub(super) counts: Counts,
    pub(super) on_error: OnError,
    /// Requests of the peer's that had no answer when it was closed.
    pub(super) cut_off: AtomicU64,
    owner: StateHandle<Owner>,
    /// Why there was no first connection, until somebody is told.
    no_connection: Mutex<Option<anyhow::Error>>,
    next_ids: AtomicU64,
    /// For each thread its own; what a thread leaves behind, the next one takes up.
    scratch: ThreadLocal<RefCell<Scratch>>,
    closed: AtomicBool,
    /// Bytes of frames that have not been written yet, and invocations that have not ended.
    queued: AtomicUsize,
    in_flight: AtomicUsize,
    phase: Mutex<Phase>,
    /// For who waits for room, or for another phase.
    changed: Condvar,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Scratch {
    frame: Vec<u8>,
    ids: Range<u64>,
}

/// How the session stands with its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Up,
    /// The peer says no more. What it has asked for is still answered, and then it is over.
    Ending(String),
    /// For good: closed on our side, or lost without another try.
    Down(Down),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Down {
    Closed,
    Lost(String),
}

impl Down {
    pub(super) fn error(&self) -> SessionError {
        match self {
            Self::Closed => Kind::Closed.into(),
            Self::Lost(why) => Kind::Lost { why: why.clone() }.into(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) max_message_size: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_queued: usize,
    pub(super) answer_capacity: usize,
    pub(super) overflow: super::Overflow,
    pub(super) when_full: super::WhenFull,
    pub(super) timeout: Duration,
    pub(super) end: Duration,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Default)]
        pub(super) struct Counts { $(pub(super) $name: AtomicU64),* }

        /// What a session has done and seen. Each number is right by itself; together they may be of
        /// different moments.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub struct SessionStats {
            /// Invocations that have not ended.
            pub in_flight: u64,
            /// Bytes of frames that are not written yet.
            pub queued_bytes: u64,
            $($(#[$doc])* pub $name: u64),*
        }

        impl Counts {
            fn read(&self) -> SessionStats {
                SessionStats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ..SessionStats::default()
                }
            }
        }
    };
}

counts! {
    /// Connections that were made.
    connections,
    /// Frames that were read.
    frames_read,
    /// Frames that were queued to be written.
    frames_written,
    /// Requests that the peer has made.
    requests,
    /// Frames that could not be understood.
    malformed,
    /// Frames of the peer's that were over the limit, and were passed over.
    oversized,
    /// Answers to ids that were never given out.
    unknown,
    /// Answers to invocations that had ended: given up, over time, or ended twice.
    late,
    /// Answers of ours that were not written, for the connection was lost.
    dropped_answers,
    /// Invocations whose answers were not read as fast as they came.
    overflows,
    /// Panics in handlers.
    panics,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Room for one invocation. It is given back when this is dropped.
pub(super) struct Room {
    shared: Arc<Shared>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.shared.tell_of_room();
    }
}

/// A frame, and its bytes' part of what may be queued.
pub(super) struct Frame {
    bytes: Box<[u8]>,
    shared: Arc<Shared>,
}

impl Frame {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Why the session is down, if it is.
    pub(super) fn why_down(&self) -> Option<SessionError> {
        self.shared.down().map(|down| down.error())
    }

    /// It is on its way: its part is given back not here, but once it is written.
    pub(super) fn on_its_way(mut self) {
        self.bytes = Box::default();
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.shared.written(self.bytes.len());
    }
}

impl Shared {
    pub(super) fn new(
        protocol: Box<dyn Protocol>,
        limits: Limits,
        on_error: OnError,
        owner: StateHandle<Owner>,
    ) -> Arc<Self> {
        Arc::new(Self {
            protocol,
            limits,
            counts: Counts::default(),
            on_error,
            cut_off: AtomicU64::new(0),
            owner,
            no_connection: Mutex::default(),
            next_ids: AtomicU64::new(1),
            scratch: ThreadLocal::new(),
            closed: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            phase: Mutex::new(Phase::Connecting),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    pub(super) fn is_loop_thread(&self) -> bool {
        self.owner.is_own_thread()
    }

    pub(super) fn stats(&self) -> SessionStats {
        let mut stats = self.counts.read();
        stats.in_flight = self.in_flight.load(Ordering::Relaxed) as u64;
        stats.queued_bytes = self.queued.load(Ordering::Relaxed) as u64;
        stats
    }

    // ---- phases -------------------------------------------------------------------------------

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is down stays down.
    pub(super) fn set_phase(&self, new: Phase) {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Down(_)) {
            let closed = matches!(new, Phase::Down(_) | Phase::Ending(_));
            self.closed.store(closed, Ordering::SeqCst);
            *phase = new;
        }
        drop(phase);
        self.changed.notify_all();
    }

    /// Whether this is a forked child, which has no thread of the session's: here it is closed, and its
    /// locks may be held for ever.
    pub(super) fn is_inherited(&self) -> bool {
        self.owner.is_inherited()
    }

    pub(super) fn down(&self) -> Option<Down> {
        if self.is_inherited() {
            return Some(Down::Closed);
        }
        if !self.closed.load(Ordering::SeqCst) {
            return None;
        }
        match &*self.phase() {
            Phase::Down(down) => Some(down.clone()),
            Phase::Ending(why) => Some(Down::Lost(why.clone())),
            Phase::Connecting | Phase::Up => None,
        }
    }

    /// Whether it is down for good, and all is over.
    pub(super) fn is_down(&self) -> bool {
        self.is_inherited()
            || self.closed.load(Ordering::SeqCst) && matches!(*self.phase(), Phase::Down(_))
    }

    /// Waits until it has come to where `goal` finds an answer. `None`: the time is over.
    pub(super) fn wait_phase<R>(
        &self,
        deadline: Deadline,
        goal: impl Fn(&Phase) -> Option<R>,
    ) -> Option<R> {
        if self.is_inherited() {
            return goal(&Phase::Down(Down::Closed));
        }
        let mut phase = self.phase();
        loop {
            if let Some(reached) = goal(&phase) {
                return Some(reached);
            }
            phase = deadline.wait(&self.changed, phase).ok()?;
        }
    }

    /// There was no first connection.
    pub(super) fn no_connection(&self, why: anyhow::Error) {
        *self.no_connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(super) fn take_no_connection(&self) -> Option<anyhow::Error> {
        self.no_connection.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells of an error that no caller is told.
    pub(super) fn report(&self, error: &anyhow::Error) {
        if contain(|| (self.on_error)(error)).is_err() {
            count(&self.counts.panics);
        }
    }

    // ---- room ---------------------------------------------------------------------------------

    fn tell_of_room(&self) {
        // The waiter counts itself, then looks for room; here room is made, then the count is read.
        if self.waiting.load(Ordering::SeqCst) != 0 && !self.is_inherited() {
            drop(self.phase()); // it has looked, and waits
            self.changed.notify_all();
        }
    }

    /// So many bytes have been written, or will never be.
    pub(super) fn written(&self, bytes: usize) {
        if bytes > 0 {
            self.queued.fetch_sub(bytes, Ordering::SeqCst);
            self.tell_of_room();
        }
    }

    /// Whether more waits to be written than callers may queue, by far: what had to be said in any
    /// case, and the peer does not take it.
    pub(super) fn is_choked(&self) -> bool {
        let Limits { max_queued, max_message_size, .. } = self.limits;
        let most = max_queued.saturating_mul(2).saturating_add(max_message_size);
        self.queued.load(Ordering::Relaxed) > most
    }

    /// Takes room by `take`, waiting for it if the caller chose to.
    fn make_room(
        &self,
        what: &'static str,
        when_full: super::WhenFull,
        deadline: Deadline,
        take: impl Fn() -> bool,
    ) -> Result<(), SessionError> {
        if take() {
            return Ok(());
        }
        if when_full == super::WhenFull::Refuse {
            return Err(Kind::Full { what }.into());
        }
        if self.is_loop_thread() {
            return Err(Kind::WouldDeadlock.into());
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let taken = self.wait_phase(deadline, |phase| match phase {
            Phase::Down(down) => Some(Err(down.error())),
            _ => take().then_some(Ok(())),
        });
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        taken.unwrap_or_else(|| Err(Kind::Full { what }.into()))
    }

    pub(super) fn room_in_flight(
        self: &Arc<Self>,
        when_full: super::WhenFull,
        deadline: Deadline,
    ) -> Result<Room, SessionError> {
        let max = self.limits.max_in_flight;
        let more = |now| (now < max).then_some(now + 1);
        let (order, what) = (Ordering::SeqCst, "too many invocations are in flight");
        let take = || self.in_flight.fetch_update(order, order, more).is_ok();
        self.make_room(what, when_full, deadline, take)?;
        Ok(Room { shared: Arc::clone(self) })
    }

    // ---- saying something ---------------------------------------------------------------------

    pub(super) fn new_id(&self) -> u64 {
        let mut scratch = self.scratch.get_or_default().borrow_mut();
        scratch.ids.next().unwrap_or_else(|| {
            let first = self.next_ids.fetch_add(IDS, Ordering::Relaxed);
            scratch.ids = first + 1..first + IDS;
            first
        })
    }

    /// Whether this id may have been given out.
    pub(super) fn was_given_out(&self, id: u64) -> bool {
        (1..self.next_ids.load(Ordering::Relaxed)).contains(&id)
    }

    /// Encodes a message, on this thread, and takes room for it.
    pub(super) fn encode(
        self: &Arc<Self>,
        message: &Outgoing<'_>,
        when_full: super::WhenFull,
        deadline: Deadline,
    ) -> Result<Frame, SessionError> {
        let bytes = self.write(message)?;
        let size = bytes.len();
        let max = self.limits.max_queued;
        // One frame always finds room, be it larger than all of it.
        let more = |now| (now == 0 || now + size <= max).then_some(now + size);
        let take = || self.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok();
        self.make_room("too many bytes wait to be written", when_full, deadline, take)?;
        Ok(Frame { bytes, shared: Arc::clone(self) })
    }

    /// As [`encode`](Self::encode), for what is short and has to be said, room or not.
    pub(super) fn encode_in_any_case(
        self: &Arc<Self>,
        message: &Outgoing<'_>,
    ) -> Result<Frame, SessionError> {
        Ok(self.frame(self.write(message)?))
    }

    /// What was answered to the requests of one batch.
    pub(super) fn join(self: &Arc<Self>, answers: &[Frame]) -> Frame {
        let mut frame = Vec::new();
        self.protocol.join(&Vec::from_iter(answers.iter().map(Frame::bytes)), &mut frame);
        self.frame(frame.into())
    }

    fn frame(self: &Arc<Self>, bytes: Box<[u8]>) -> Frame {
        self.queued.fetch_add(bytes.len(), Ordering::SeqCst);
        Frame { bytes, shared: Arc::clone(self) }
    }

    fn write(&self, message: &Outgoing<'_>) -> Result<Box<[u8]>, SessionError> {
        // Out of its cell, for the protocol is foreign code and may come back here.
        let cell = self.scratch.get_or_default();
        let mut frame = std::mem::take(&mut cell.borrow_mut().frame);
        frame.clear();
        let encoded = self.protocol.encode(message, &mut frame);
        let bytes: Box<[u8]> = frame.as_slice().into();
        if frame.capacity() <= SCRATCH {
            cell.borrow_mut().frame = frame;
        }
        encoded?;
        let (size, limit) = (bytes.len(), self.limits.max_message_size);
        if size > limit { Err(Kind::TooLarge { size, limit }.into()) } else { Ok(bytes) }
    }

    /// Has the owner do something. Not taken, `act` is dropped: what is in it tells whom it has to.
    pub(super) fn post(
        &self,
        act: impl FnOnce(&mut Owner) + Send + 'static,
    ) -> Result<(), SessionError> {
        self.owner.post(act).map_err(|refused| {
            drop(refused);
            self.down().unwrap_or(Down::Closed).error()
        })
    }
}

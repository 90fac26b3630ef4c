//! Sockets and pipes, watched for readiness. With [`state`](super::state) it is one thing in two files.
//!
//! Several sources may lie on one descriptor: an `Arc` of a socket that one part of a program reads and
//! another writes. A poller knows each descriptor once. So a [`Descriptor`] stands between the two: it
//! lists the sources, and asks the poller for what any of them wants. What is ready is told to those that
//! want it; and whichever of them is modified or dropped, the others are watched as before.

#![allow(unsafe_code)] // the poller's contract: a source is deleted before it is dropped

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
#[cfg(unix)]
pub(crate) use std::os::fd::AsFd as AsSource;
#[cfg(unix)]
use std::os::fd::{AsRawFd, BorrowedFd as Borrowed, RawFd as Raw};
#[cfg(windows)]
pub(crate) use std::os::windows::io::AsSocket as AsSource;
#[cfg(windows)]
use std::os::windows::io::{AsRawSocket, BorrowedSocket as Borrowed, RawSocket as Raw};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use polling::{Event, Events, PollMode, Poller};

use super::reach::Reach;
use super::state::Local;
use crate::contain::drop_each;

/// What a source is watched for.
///
/// ```
/// use sessile::event_loop::Interest;
///
/// assert_ne!(Interest::READABLE, Interest::BOTH);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    readable: bool,
    writable: bool,
    /// That the other side neither talks nor listens any more; where the system tells.
    hang_up: bool,
}

impl Interest {
    /// Nothing, for the time being.
    pub const NONE: Self = Self { readable: false, writable: false, hang_up: false };
    /// There is something to read, or the other side has closed.
    pub const READABLE: Self = Self { readable: true, ..Self::NONE };
    /// There is room to write.
    pub const WRITABLE: Self = Self { writable: true, ..Self::NONE };
    /// Either.
    pub const BOTH: Self = Self { readable: true, writable: true, ..Self::NONE };
    /// The other side neither talks nor listens any more, or the stream has failed; not that it merely
    /// says no more. It is told as readable. Where the poller cannot tell, it never comes.
    #[cfg(all(feature = "duplex", unix))]
    pub(crate) const HANG_UP: Self = Self { hang_up: true, ..Self::NONE };

    fn event(self, raw: Raw) -> Event {
        Event::new(key(raw), self.readable, self.writable)
    }

    fn is_none(self) -> bool {
        self == Self::NONE
    }

    fn and(self, other: Self) -> Self {
        Self {
            readable: self.readable || other.readable,
            writable: self.writable || other.writable,
            hang_up: self.hang_up || other.hang_up,
        }
    }

    fn covers(self, other: Self) -> bool {
        self.and(other) == self
    }

    /// What is wanted of that for which a source is ready.
    fn of(self, ready: Readiness) -> Readiness {
        let Readiness { readable, writable, hung_up } = ready;
        Readiness {
            readable: readable && self.readable || hung_up && self.hang_up,
            writable: writable && self.writable,
            hung_up: hung_up && self.hang_up,
        }
    }
}

/// What a source is ready for.
///
/// ```
/// use sessile::EventLoop;
/// use sessile::event_loop::Interest;
///
/// let event_loop = EventLoop::new();
/// let (_reader, writer) = std::io::pipe()?;
/// let source = event_loop.local().add(writer, Interest::BOTH, |_, ready| {
///     assert!(ready.writable && !ready.readable);
/// })?;
/// assert!(event_loop.run_once(None)?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// There is something to read, or the other side has closed.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    hung_up: bool,
}

impl Readiness {
    const NONE: Self = Self { readable: false, writable: false, hung_up: false };
}

type Watcher = Box<dyn FnMut(Readiness)>;

#[derive(Default)]
pub(super) struct Sources {
    /// Made with the first source; gone when the loop is closed.
    poller: Option<Arc<Poller>>,
    watched: HashMap<u64, Watched>,
    descriptors: HashMap<Raw, Descriptor>,
    /// Of a source, or of a future that awaits one.
    next_key: u64,
    events: Events,
    /// Those that are ready, for this turn or a later one. Each stands here once.
    ready: VecDeque<u64>,
}

struct Watched {
    raw: Raw,
    calls: Calls,
    interest: Interest,
    /// What it will be called with: its call is queued, and one is enough.
    queued: Readiness,
    readers: Waiting,
    writers: Waiting,
}

enum Calls {
    /// Nobody: it is awaited.
    Nobody,
    /// Taken out while it is called.
    Watcher(Option<Watcher>),
}

/// Futures that await a source.
type Waiting = Vec<(u64, Waker)>;

/// A descriptor, and who watches it.
struct Descriptor {
    sources: Vec<u64>,
    /// What the poller was asked for. With nothing it is not in there: a poller tells of a peer that has
    /// gone even where nothing is asked, and the loop would not sleep any more.
    asked: Interest,
}

/// Which way a future waits to go.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Read,
    Write,
}

impl Watched {
    fn waiting(&mut self, way: Way) -> &mut Waiting {
        match way {
            Way::Read => &mut self.readers,
            Way::Write => &mut self.writers,
        }
    }

    fn wants(&self) -> Interest {
        self.interest.and(Interest {
            readable: !self.readers.is_empty(),
            writable: !self.writers.is_empty(),
            hang_up: false,
        })
    }
}

/// How far the poller is told what is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    /// Of what is wanted in addition. What is not wanted any more may well be soon: then it costs
    /// nothing; and if not, the poller tells of it once in vain.
    More,
    All,
    /// Also if it was told so: the number may have been closed and mean something new.
    Again,
}

pub(super) fn closed() -> io::Error {
    io::Error::other("the loop is closed")
}

impl Sources {
    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// Whether there are some to be called.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next one to be called.
    pub(super) fn next_ready(&mut self) -> Option<u64> {
        self.ready.pop_front()
    }

    /// Watches a source, with somebody to be called, or with nobody.
    pub(super) fn add<S: AsSource + 'static>(
        local: &Rc<Local>,
        source: S,
        called: Option<(Interest, impl FnMut(&S, Readiness) + 'static)>,
    ) -> io::Result<Source<S>> {
        if local.is_closed() {
            return Err(closed());
        }
        let raw = raw(&source);
        let source = Rc::new(source);
        let (interest, calls) = match called {
            None => (Interest::NONE, Calls::Nobody),
            Some((interest, mut callback)) => {
                let seen = Rc::clone(&source);
                let watcher: Watcher = Box::new(move |readiness| callback(&seen, readiness));
                (interest, Calls::Watcher(Some(watcher)))
            }
        };
        let mut watched = Some(Watched {
            raw,
            calls,
            interest,
            queued: Readiness::NONE,
            readers: Waiting::new(),
            writers: Waiting::new(),
        });
        let added = local.sources.borrow_mut().enter(&local.reach, raw, &mut watched);
        drop(watched); // on error, foreign code: after the borrow
        Ok(Source { local: Rc::clone(local), key: added?, source: Some(source) })
    }

    /// Enters a source, which it takes, in its descriptor's list. Its owner takes it [out](Self::leave)
    /// before it closes the descriptor.
    fn enter(&mut self, reach: &Reach, raw: Raw, watched: &mut Option<Watched>) -> io::Result<u64> {
        let poller = self.poller(reach)?;
        self.next_key += 1;
        let key = self.next_key;
        let is_first = !self.descriptors.contains_key(&raw);
        if is_first {
            // What cannot be watched is refused now, also if it is only to be watched some day.
            // SAFETY: the poller asks that what it watches be deleted from it before it is closed. This
            // here is deleted in the next line.
            unsafe { poller.add_with_mode(raw, Interest::READABLE.event(raw), PollMode::Level)? };
            let _ = self.ask(&poller, raw, Interest::READABLE, Interest::NONE);
        }
        self.watched.extend(watched.take().map(|it| (key, it)));
        let new = || Descriptor { sources: Vec::new(), asked: Interest::NONE };
        self.descriptors.entry(raw).or_insert_with(new).sources.push(key);
        if let Err(error) = self.tell(raw, Tell::Again) {
            *watched = self.leave(key);
            return Err(error);
        }
        Ok(key)
    }

    /// The poller, made now if there is none.
    pub(super) fn poller(&mut self, reach: &Reach) -> io::Result<Arc<Poller>> {
        if let Some(poller) = &self.poller {
            return Ok(Arc::clone(poller));
        }
        let poller = Arc::new(Poller::new()?);
        reach.set_poller(&poller);
        Ok(Arc::clone(self.poller.insert(poller)))
    }

    /// Takes a source out. What it leaves is foreign code, for the caller to drop.
    #[must_use]
    fn leave(&mut self, key: u64) -> Option<Watched> {
        let watched = self.watched.remove(&key)?;
        let raw = watched.raw;
        if let Some(descriptor) = self.descriptors.get_mut(&raw) {
            descriptor.sources.retain(|one| *one != key);
            // It may fail only if the descriptor was closed already.
            let _ = self.tell(raw, Tell::All);
        }
        if self.descriptors.get(&raw).is_some_and(|descriptor| descriptor.sources.is_empty()) {
            self.descriptors.remove(&raw);
        }
        Some(watched)
    }

    /// Tells the poller what the sources of a descriptor want by now.
    fn tell(&mut self, raw: Raw, tell: Tell) -> io::Result<()> {
        let (Some(poller), Some(descriptor)) = (&self.poller, self.descriptors.get(&raw)) else {
            return Ok(());
        };
        let wanted = descriptor
            .sources
            .iter()
            .filter_map(|key| self.watched.get(key))
            .fold(Interest::NONE, |wanted, watched| wanted.and(watched.wants()));
        let asked = descriptor.asked;
        let knows = match tell {
            Tell::More => asked.covers(wanted),
            Tell::All => asked == wanted,
            Tell::Again => false,
        };
        if knows {
            return Ok(());
        }
        let poller = Arc::clone(poller);
        self.ask(&poller, raw, asked, wanted)?;
        if let Some(descriptor) = self.descriptors.get_mut(&raw) {
            descriptor.asked = wanted;
        }
        Ok(())
    }

    fn ask(&self, poller: &Poller, raw: Raw, from: Interest, to: Interest) -> io::Result<()> {
        // SAFETY: valid: a source on this descriptor is alive, and with it the descriptor is open: the
        // callers have one, or leave with one. Aliasing: it is a number.
        let borrowed = unsafe { Borrowed::borrow_raw(raw) };
        let add = || {
            // SAFETY: the poller asks that what it watches be deleted from it before it is closed. Each
            // `Source` owns a count of what has the descriptor, and leaves the list in its own
            // destructor, before it gives that up; were the `Source` forgotten, the count would never
            // be given up. The only other count is in its watcher, out of the callback's reach. With
            // the last of the list the descriptor is deleted. Once the loop is closed the poller is gone
            // instead; whoever rings at that moment, or has lent it to another loop, only has it
            // notified or looked at.
            unsafe { poller.add_with_mode(raw, to.event(raw), PollMode::Level) }
        };
        match (from.is_none(), to.is_none()) {
            (true, true) => Ok(()),
            (true, false) => add(),
            (false, true) => match poller.delete(borrowed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
            (false, false) => {
                match poller.modify_with_mode(borrowed, to.event(raw), PollMode::Level) {
                    // The number has been closed under its source, and means something new.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => add(),
                    done => done,
                }
            }
        }
    }

    /// Sleeps in the poller, or only looks, with a wait of zero. What is ready is queued.
    pub(super) fn wait(local: &Local, wait: Option<Duration>) -> io::Result<()> {
        let reach: &Reach = &local.reach;
        let mut sources = local.sources.borrow_mut();
        let sources = &mut *sources;
        sources.events.clear(); // they pile up otherwise
        let polled = match &sources.poller {
            Some(poller) => poller.wait(&mut sources.events, wait),
            None => Ok(0),
        };
        reach.mailbox.wake_up();
        match polled {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let Self { watched, descriptors, events, ready, .. } = sources;
        let mut in_vain = Vec::new();
        for event in events.iter() {
            let hung_up = event.is_interrupt() || event.is_err() == Some(true);
            let is = Readiness { readable: event.readable, writable: event.writable, hung_up };
            let raw = of_key(event.key);
            let Some(descriptor) = descriptors.get(&raw) else { continue };
            let mut is_wanted = false;
            for key in &descriptor.sources {
                let Some(watched) = watched.get_mut(key) else { continue };
                if watched.wants().of(is) == Readiness::NONE {
                    continue;
                }
                is_wanted = true;
                if watched.queued == Readiness::NONE {
                    ready.push_back(*key);
                }
                watched.queued.readable |= is.readable;
                watched.queued.writable |= is.writable;
                watched.queued.hung_up |= is.hung_up;
            }
            if !is_wanted {
                in_vain.push(raw);
            }
        }
        in_vain.into_iter().try_for_each(|raw| sources.tell(raw, Tell::All))
    }

    /// Wakes who awaits a source that was ready, and calls its watcher; unless it has been removed
    /// since, or is watched for something else.
    pub(super) fn call(local: &Local, key: u64) {
        let (wakers, readiness, watcher) = match local.sources.borrow_mut().watched.get_mut(&key) {
            Some(watched) => {
                let ready = std::mem::replace(&mut watched.queued, Readiness::NONE);
                let mut wakers = Waiting::new();
                if ready.readable {
                    wakers.append(&mut watched.readers);
                }
                if ready.writable {
                    wakers.append(&mut watched.writers);
                }
                let readiness = watched.interest.of(ready);
                let watcher = match &mut watched.calls {
                    Calls::Watcher(watcher) if readiness != Readiness::NONE => watcher.take(),
                    _ => None,
                };
                (wakers, readiness, watcher)
            }
            None => return,
        };
        // Put back also when it panics: the exception handler is told, and the source is still there.
        struct PutBack<'a> {
            local: &'a Local,
            key: u64,
            watcher: Option<Watcher>,
        }
        impl Drop for PutBack<'_> {
            fn drop(&mut self) {
                let mut sources = self.local.sources.borrow_mut();
                if let Some(Watched { calls: Calls::Watcher(watcher), .. }) =
                    sources.watched.get_mut(&self.key)
                    && self.watcher.is_some()
                {
                    *watcher = self.watcher.take();
                }
                drop(sources); // a watcher that is not put back is foreign code to be dropped
            }
        }
        let mut taken = PutBack { local, key, watcher };
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
        if let Some(watcher) = &mut taken.watcher {
            watcher(readiness);
        }
    }

    /// The loop is closed. Drops all watchers, and the poller; the sources stay with their handles.
    pub(super) fn clear(local: &Local) {
        let Self { poller, watched, descriptors, mut events, .. } = local.sources.take();
        if let (Some(poller), Some(_)) = (&poller, local.on_loan.get()) {
            // Another loop watches it on; it is quiet for ever.
            for (raw, _) in descriptors {
                // SAFETY: as in `ask`: a source that is on the list is alive.
                let _ = poller.delete(unsafe { Borrowed::borrow_raw(raw) });
            }
            let _ = poller.wait(&mut events, Some(Duration::ZERO));
        }
        drop(poller);
        for (_, Watched { calls, readers, writers, .. }) in watched {
            drop_each([calls]);
            // They find the loop closed.
            drop_each(readers.into_iter().chain(writers).map(|(_, waker)| Wakes(waker)));
        }
    }

    // ---- futures that await a source -------------------------------------------------------------

    /// Has a future woken when the source is ready, unless it is [forgotten](Self::forget) before.
    pub(super) fn await_one(local: &Local, source: u64, way: Way, waker: Waker) -> io::Result<u64> {
        let mut sources = local.sources.borrow_mut();
        sources.next_key += 1;
        let id = sources.next_key;
        let watched = sources.watched.get_mut(&source).ok_or_else(closed)?;
        let raw = watched.raw;
        watched.waiting(way).push((id, waker));
        let told = sources.tell(raw, Tell::More);
        drop(sources);
        if told.is_err() {
            drop(Self::forget(local, source, way, id));
        }
        told.map(|()| id)
    }

    /// The waker of a future that still awaits the source; none if that has become ready.
    pub(super) fn awaits(&mut self, source: u64, way: Way, id: u64) -> Option<&mut Waker> {
        let waiting = self.watched.get_mut(&source)?.waiting(way);
        waiting.iter_mut().find(|(one, _)| *one == id).map(|(_, waker)| waker)
    }

    /// A future awaits the source no more. Its waker is foreign code, for the caller to drop.
    #[must_use]
    pub(super) fn forget(local: &Local, source: u64, way: Way, id: u64) -> Option<Waker> {
        let mut sources = local.sources.borrow_mut();
        let waiting = sources.watched.get_mut(&source)?.waiting(way);
        let at = waiting.iter().position(|(one, _)| *one == id)?;
        Some(waiting.remove(at).1)
    }

    pub(super) fn knows(&self, source: u64) -> bool {
        self.watched.contains_key(&source)
    }
}

/// Wakes when dropped, so that a waker that panics is contained like all else that is dropped.
struct Wakes(Waker);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

#[cfg(unix)]
fn raw<S: AsSource>(source: &S) -> Raw {
    source.as_fd().as_raw_fd()
}

#[cfg(windows)]
fn raw<S: AsSource>(source: &S) -> Raw {
    source.as_socket().as_raw_socket()
}

/// What the poller calls a descriptor, and [back](of_key).
fn key(raw: Raw) -> usize {
    raw as usize
}

fn of_key(key: usize) -> Raw {
    key as Raw
}

/// A source that a loop watches; it derefs to the source. Dropped, it is watched no more, and closed.
///
/// Its callback, if it has one, is called whenever the source is ready for what [`modify`](Self::modify)
/// named last. A future awaits it by [`readable`](Self::readable) or [`writable`](Self::writable), with
/// or without a callback.
///
/// # Several sources on one descriptor
///
/// Several sources may lie on one descriptor: an `Arc` of a socket, of which one part of a program reads
/// and another writes. Each is watched for what it was asked for itself, in the order in which they
/// were added, and none of them notices when another is modified, at rest or dropped. The same holds for
/// several loops. As they share what there is to read, one of them may come too late, and is told
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
///
/// use sessile::EventLoop;
/// use sessile::event_loop::Interest;
///
/// let event_loop = EventLoop::new();
/// let local = event_loop.local();
/// let (here, mut there) = UnixStream::pair()?;
/// here.set_nonblocking(true)?;
/// let here = Arc::new(here);
/// let reads = local.add(Arc::clone(&here), Interest::READABLE, |here, _| {
///     let mut byte = [0];
///     let _ = here.as_ref().read(&mut byte);
/// })?;
/// let writes = local.add(here, Interest::WRITABLE, |_, _| ())?;
/// drop(writes); // `reads` is watched as before
/// there.write_all(b"x")?;
/// assert!(event_loop.run_once(None)?);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Source<S: AsSource + 'static> {
    pub(super) local: Rc<Local>,
    pub(super) key: u64,
    /// Taken by `remove` only.
    source: Option<Rc<S>>,
}

impl<S: AsSource + 'static> Source<S> {
    /// Watches for something else from now on. It costs nothing if that is what it is watched for.
    ///
    /// Futures that await the source are not concerned.
    ///
    /// ```
    /// use sessile::EventLoop;
    /// use sessile::event_loop::Interest;
    ///
    /// let event_loop = EventLoop::new();
    /// let (_reader, writer) = std::io::pipe()?;
    /// let source = event_loop.local().add(writer, Interest::NONE, |_, _| ())?; // at rest
    /// source.modify(Interest::WRITABLE)?;
    /// assert!(event_loop.run_once(None)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the system refuses. If the loop is closed. If the source has no callback, as after
    /// [`LocalHandle::watch`](super::LocalHandle::watch).
    pub fn modify(&self, interest: Interest) -> io::Result<()> {
        if self.local.is_closed() {
            return Err(closed());
        }
        let mut sources = self.local.sources.borrow_mut();
        let watched = sources.watched.get_mut(&self.key).ok_or_else(closed)?;
        if matches!(watched.calls, Calls::Nobody) {
            let message = "a source without a callback is awaited, by `readable` or `writable`; \
                           `modify` is for one that was added with a callback";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let before = std::mem::replace(&mut watched.interest, interest);
        let raw = watched.raw;
        let told = if before == interest { Ok(()) } else { sources.tell(raw, Tell::All) };
        if told.is_err()
            && let Some(watched) = sources.watched.get_mut(&self.key)
        {
            watched.interest = before;
        }
        told
    }

    /// Watches it no more, and gives it back; not from inside its own callback: there it is `None`,
    /// and the source is closed when the callback returns.
    ///
    /// ```
    /// use sessile::EventLoop;
    ///
    /// let event_loop = EventLoop::new();
    /// let (reader, _writer) = std::io::pipe()?;
    /// let source = event_loop.local().watch(reader)?;
    /// let reader = source.remove().expect("this is not its callback");
    /// # drop(reader);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn remove(mut self) -> Option<S> {
        self.unwatch();
        self.source.take().and_then(Rc::into_inner)
    }

    fn unwatch(&self) {
        if self.local.reach.is_inherited() {
            return; // a forked child has the same poller as its parent, who still watches
        }
        // The poller is told before anything of others' is dropped: that may panic.
        let left = self.local.sources.borrow_mut().leave(self.key);
        let Some(Watched { calls, readers, writers, .. }) = left else { return };
        drop_each([calls]); // foreign code: after the borrow
        drop_each(readers.into_iter().chain(writers));
    }
}

impl<S: AsSource + 'static> std::ops::Deref for Source<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.source.as_ref().expect("taken out only on the way out")
    }
}

#[cfg(unix)]
impl<S: AsSource + 'static> AsSource for Source<S> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        (**self).as_fd()
    }
}

#[cfg(windows)]
impl<S: AsSource + 'static> AsSource for Source<S> {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        (**self).as_socket()
    }
}

impl<S: AsSource + 'static> Drop for Source<S> {
    fn drop(&mut self) {
        if self.source.is_some() {
            self.unwatch();
        }
    }
}

impl<S: AsSource + fmt::Debug + 'static> fmt::Debug for Source<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.source).finish()
    }
}

//! Sockets and pipes, watched for readiness.

#![allow(unsafe_code)] // the poller's contract: a source is deleted before it is dropped

use std::collections::HashMap;
use std::fmt;
use std::io;
#[cfg(unix)]
pub(crate) use std::os::fd::AsFd as AsSource;
#[cfg(windows)]
pub(crate) use std::os::windows::io::AsSocket as AsSource;
use std::rc::Rc;
use std::sync::Arc;

use polling::{Event, Events, PollMode, Poller};

use super::local::{Callback, Entry, Local};
use super::reach::Reach;
use crate::contain::drop_each;

/// What a source is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    readable: bool,
    writable: bool,
}

impl Interest {
    /// Nothing, for the time being.
    pub const NONE: Self = Self { readable: false, writable: false };
    /// There is something to read, or the other side has closed.
    pub const READABLE: Self = Self { readable: true, writable: false };
    /// There is room to write.
    pub const WRITABLE: Self = Self { readable: false, writable: true };
    /// Either.
    pub const BOTH: Self = Self { readable: true, writable: true };

    fn event(self, key: u64) -> Event {
        Event::new(key as usize, self.readable, self.writable)
    }

    fn is_none(self) -> bool {
        !self.readable && !self.writable
    }

    /// What is wanted of that for which a source is ready.
    fn of(self, ready: Readiness) -> Readiness {
        let Readiness { readable, writable } = ready;
        Readiness { readable: readable && self.readable, writable: writable && self.writable }
    }
}

/// What a source is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// There is something to read, or the other side has closed.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

impl Readiness {
    const NONE: Self = Self { readable: false, writable: false };
}

type Watcher = Box<dyn FnMut(Readiness)>;

#[derive(Default)]
pub(super) struct Sources {
    /// Made with the first source; gone when the loop is closed.
    poller: Option<Arc<Poller>>,
    watched: HashMap<u64, Watched>,
    next_key: u64,
    events: Events,
}

struct Watched {
    /// Taken out while it is called.
    watcher: Option<Watcher>,
    interest: Interest,
    /// What it will be called with: its call is queued, and one is enough.
    queued: Readiness,
}

impl Sources {
    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    pub(super) fn add<S: AsSource + 'static>(
        local: &Rc<Local>,
        source: S,
        interest: Interest,
        mut callback: impl FnMut(&S, Readiness) + 'static,
    ) -> io::Result<Source<S>> {
        if local.closed.get() {
            return Err(io::Error::other("the loop is closed"));
        }
        let (poller, key) = local.sources.borrow_mut().place(&local.reach)?;
        let source = Rc::new(source);
        // SAFETY: the poller asks that the source be deleted from it before it is dropped. `Source`
        // owns a count of it and deletes it in its own destructor, before it gives that up; were the
        // `Source` forgotten, the count would never be given up. The only other count is in the
        // watcher below, out of the callback's reach. Once the loop is closed the poller is gone
        // instead; whoever rings at that moment may have it for a little longer, and only notifies it.
        unsafe { poller.add_with_mode(&handle(&*source), interest.event(key), PollMode::Level)? };
        if interest.is_none() {
            let _ = poller.delete(handle(&*source)); // see `modify`
        }
        let seen = Rc::clone(&source);
        let watcher: Watcher = Box::new(move |readiness| callback(&seen, readiness));
        let watched = Watched { watcher: Some(watcher), interest, queued: Readiness::NONE };
        local.sources.borrow_mut().watched.insert(key, watched);
        Ok(Source { local: Rc::clone(local), key, source: Some(source) })
    }

    /// The poller, made now if there is none, and the key of one source more.
    fn place(&mut self, reach: &Reach) -> io::Result<(Arc<Poller>, u64)> {
        let poller = match self.poller.take() {
            Some(poller) => poller,
            None => {
                let poller = Arc::new(Poller::new()?);
                reach.set_poller(&poller);
                poller
            }
        };
        self.next_key += 1;
        Ok((Arc::clone(self.poller.insert(poller)), self.next_key))
    }

    /// Sleeps in the poller, or only looks, with a wait of zero. What is ready is queued.
    pub(super) fn wait(local: &Local, wait: Option<std::time::Duration>) -> io::Result<()> {
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
        let mut ready = local.ready.borrow_mut();
        for event in sources.events.iter() {
            let key = event.key as u64;
            let Some(watched) = sources.watched.get_mut(&key) else { continue };
            if watched.queued == Readiness::NONE {
                ready.push_back(Entry::new(Callback::Ready(key)));
            }
            watched.queued.readable |= event.readable;
            watched.queued.writable |= event.writable;
        }
        Ok(())
    }

    /// Calls the watcher of a source that was ready, unless it has been removed since, or is watched
    /// for something else.
    pub(super) fn call(local: &Local, key: u64) {
        let (readiness, watcher) = match local.sources.borrow_mut().watched.get_mut(&key) {
            Some(watched) => {
                let ready = std::mem::replace(&mut watched.queued, Readiness::NONE);
                let readiness = watched.interest.of(ready);
                if readiness == Readiness::NONE {
                    return;
                }
                (readiness, watched.watcher.take())
            }
            None => return,
        };
        let Some(watcher) = watcher else { return };
        // Put back also when it panics: the exception handler is told, and the source is still there.
        struct PutBack<'a> {
            local: &'a Local,
            key: u64,
            watcher: Option<Watcher>,
        }
        impl Drop for PutBack<'_> {
            fn drop(&mut self) {
                let mut sources = self.local.sources.borrow_mut();
                if let Some(watched) = sources.watched.get_mut(&self.key) {
                    watched.watcher = self.watcher.take();
                }
                drop(sources); // a watcher that is not put back is foreign code to be dropped
            }
        }
        let mut taken = PutBack { local, key, watcher: Some(watcher) };
        if let Some(watcher) = &mut taken.watcher {
            watcher(readiness);
        }
    }

    /// The loop is closed. Drops all watchers, and the poller; the sources stay with their handles.
    pub(super) fn clear(local: &Local) {
        let Self { poller, watched, .. } = local.sources.take();
        drop(poller);
        drop_each(watched);
    }
}

#[cfg(unix)]
fn handle<S: AsSource>(source: &S) -> std::os::fd::BorrowedFd<'_> {
    source.as_fd()
}

#[cfg(windows)]
fn handle<S: AsSource>(source: &S) -> std::os::windows::io::BorrowedSocket<'_> {
    source.as_socket()
}

/// A source that a loop watches; it derefs to the source. Dropped, it is watched no more, and closed.
pub struct Source<S: AsSource + 'static> {
    local: Rc<Local>,
    key: u64,
    /// Taken by `remove` only.
    source: Option<Rc<S>>,
}

impl<S: AsSource + 'static> Source<S> {
    /// Watches for something else from now on. It costs nothing if that is what it is watched for.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn modify(&self, interest: Interest) -> io::Result<()> {
        let mut sources = self.local.sources.borrow_mut();
        let Sources { poller, watched, .. } = &mut *sources;
        let (Some(poller), Some(watched)) = (poller, watched.get_mut(&self.key)) else {
            return Err(io::Error::other("the loop is closed"));
        };
        if watched.interest == interest {
            return Ok(());
        }
        // A poller tells of a peer that has gone even where nothing is asked. So what is to be left
        // alone is taken out of it; or else the loop would not sleep any more.
        match (watched.interest.is_none(), interest.is_none()) {
            (_, true) => poller.delete(handle(&**self))?,
            (false, false) => {
                poller.modify_with_mode(self, interest.event(self.key), PollMode::Level)?;
            }
            // SAFETY: as in `Sources::add`: it is deleted before `self` gives its count up.
            (true, false) => unsafe {
                poller.add_with_mode(
                    &handle(&**self),
                    interest.event(self.key),
                    PollMode::Level,
                )?;
            },
        }
        watched.interest = interest;
        Ok(())
    }

    /// Watches it no more, and gives it back; not from inside its own callback: there it is `None`,
    /// and the source is closed when the callback returns.
    pub fn remove(mut self) -> Option<S> {
        self.unwatch();
        self.source.take().and_then(Rc::into_inner)
    }

    fn unwatch(&self) {
        let poller = self.local.sources.borrow().poller.clone();
        // Before anything of others' is dropped: that may panic.
        if let (Some(poller), Some(source)) = (poller, &self.source) {
            let _ = poller.delete(handle(&**source)); // an error: it is not in there, by `modify`
        }
        let watched = self.local.sources.borrow_mut().watched.remove(&self.key);
        drop_each(watched); // foreign code: after the borrow
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

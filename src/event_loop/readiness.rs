//! Sockets and pipes, watched for readiness.

#![allow(unsafe_code)] // the poller's contract: a source is deleted before it is dropped

use std::collections::HashMap;
use std::fmt;
use std::io;
#[cfg(unix)]
pub(super) use std::os::fd::AsFd as AsSource;
#[cfg(windows)]
pub(super) use std::os::windows::io::AsSocket as AsSource;
use std::rc::Rc;

use polling::{Event, Events, PollMode};

use super::local::{Callback, Entry, Local};
use super::reach::Reach;

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

type Watcher = Box<dyn FnMut(Readiness)>;

/// The watchers, by key. A watcher is taken out while it is called.
#[derive(Default)]
pub(super) struct Sources {
    watchers: HashMap<u64, Option<Watcher>>,
    next_key: u64,
    events: Events,
}

impl Sources {
    pub(super) fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    pub(super) fn add<S: AsSource + 'static>(
        local: &Rc<Local>,
        source: S,
        interest: Interest,
        mut callback: impl FnMut(&S, Readiness) + 'static,
    ) -> io::Result<Source<S>> {
        let poller = local.reach.poller()?;
        let key = {
            let mut sources = local.sources.borrow_mut();
            sources.next_key += 1;
            sources.next_key
        };
        let source = Rc::new(source);
        // SAFETY: the poller asks that the source be deleted from it before it is dropped. `Source`
        // owns a count of it and deletes it in its own destructor, before it gives that up; were the
        // `Source` forgotten, the count would never be given up. The only other count is in the
        // watcher below, out of the callback's reach.
        unsafe { poller.add_with_mode(&handle(&*source), interest.event(key), PollMode::Level)? };
        let seen = Rc::clone(&source);
        let watcher: Watcher = Box::new(move |readiness| callback(&seen, readiness));
        local.sources.borrow_mut().watchers.insert(key, Some(watcher));
        Ok(Source { local: Rc::clone(local), key, source: Some(source) })
    }

    /// Sleeps in the poller, or only looks, with a wait of zero. What is ready is queued.
    pub(super) fn wait(local: &Local, wait: Option<std::time::Duration>) -> io::Result<()> {
        let reach: &Reach = &local.reach;
        let mut sources = local.sources.borrow_mut();
        let sources = &mut *sources;
        sources.events.clear(); // they pile up otherwise
        let polled = reach.poller()?.wait(&mut sources.events, wait);
        reach.mailbox.wake_up();
        match polled {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let mut ready = local.ready.borrow_mut();
        for event in sources.events.iter() {
            let readiness = Readiness { readable: event.readable, writable: event.writable };
            ready.push_back(Entry::new(Callback::Ready(event.key as u64, readiness)));
        }
        Ok(())
    }

    /// Calls the watcher of a source that was ready, unless it has been removed since.
    pub(super) fn call(local: &Local, key: u64, readiness: Readiness) {
        let watcher = match local.sources.borrow_mut().watchers.get_mut(&key) {
            Some(watcher) => watcher.take(),
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
                if let Some(place) = sources.watchers.get_mut(&self.key) {
                    *place = self.watcher.take();
                }
                drop(sources); // a watcher that is not put back is foreign code to be dropped
            }
        }
        let mut taken = PutBack { local, key, watcher: Some(watcher) };
        if let Some(watcher) = &mut taken.watcher {
            watcher(readiness);
        }
    }

    /// Drops all watchers; the sources stay with their handles.
    pub(super) fn clear(local: &Local) {
        let watchers = std::mem::take(&mut local.sources.borrow_mut().watchers);
        drop(watchers);
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
    /// Watches for something else from now on.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn modify(&self, interest: Interest) -> io::Result<()> {
        let poller = self.local.reach.poller()?;
        poller.modify_with_mode(self, interest.event(self.key), PollMode::Level)
    }

    /// Watches it no more, and gives it back; not from inside its own callback: there it is `None`,
    /// and the source is closed when the callback returns.
    pub fn remove(mut self) -> Option<S> {
        self.unwatch();
        self.source.take().and_then(Rc::into_inner)
    }

    fn unwatch(&self) {
        let watcher = self.local.sources.borrow_mut().watchers.remove(&self.key);
        drop(watcher); // foreign code: after the borrow
        if let (Ok(poller), Some(source)) = (self.local.reach.poller(), &self.source) {
            let _ = poller.delete(&**source);
        }
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

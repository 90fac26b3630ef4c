//! What a future on a loop can await: a source's readiness, and the clock.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::local::{LocalHandle, Scheduled};
use super::readiness::{AsSource, Source, Sources, Way, closed};
use super::timers::after;

// ---- readiness ----------------------------------------------------------------------------------

impl<S: AsSource + 'static> Source<S> {
    /// Waits until there is something to read, or the other side has closed.
    ///
    /// Read until [`WouldBlock`](io::ErrorKind::WouldBlock), then wait again. Several futures may wait for
    /// one source: all are woken. One that is dropped waits no more, and nothing is lost by that. A
    /// future of any executor may wait, but it is the loop that tells it: that has to run.
    ///
    /// ```
    /// use std::io::{Read, Write};
    ///
    /// use sessile::EventLoop;
    ///
    /// let event_loop = EventLoop::new();
    /// let (reader, mut writer) = std::io::pipe()?;
    /// let source = event_loop.local().watch(reader)?;
    /// std::thread::spawn(move || writer.write_all(b"x"));
    /// event_loop.block_on(source.readable())??;
    /// let mut byte = [0];
    /// (&*source).read_exact(&mut byte)?;
    /// assert_eq!(&byte, b"x");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the loop is closed, also meanwhile. If the system refuses to watch the source.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Way::Read).await
    }

    /// Waits until there is room to write, or the other side has closed.
    ///
    /// All else is as with [`readable`](Self::readable).
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let (_reader, writer) = std::io::pipe()?;
    /// let source = event_loop.local().watch(writer)?;
    /// event_loop.block_on(source.writable())??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`readable`](Self::readable).
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Way::Write).await
    }

    fn ready(&self, way: Way) -> Ready<'_, S> {
        Ready { source: self, way, waits: None }
    }
}

struct Ready<'a, S: AsSource + 'static> {
    source: &'a Source<S>,
    way: Way,
    /// Its number among those that wait.
    waits: Option<u64>,
}

impl<S: AsSource + 'static> Future for Ready<'_, S> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Source { local, key, .. } = self.source;
        if local.is_closed() {
            return Poll::Ready(Err(closed()));
        }
        // Wakers are foreign code: cloned before the borrow, and dropped after it.
        let mut waker = cx.waker().clone();
        let Some(id) = self.waits else {
            return match Sources::await_one(local, *key, self.way, waker) {
                Ok(id) => {
                    self.waits = Some(id);
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            };
        };
        let mut sources = local.sources.borrow_mut();
        if let Some(waiting) = sources.awaits(*key, self.way, id) {
            if !waiting.will_wake(&waker) {
                std::mem::swap(waiting, &mut waker);
            }
            drop(sources);
            return Poll::Pending;
        }
        let known = sources.knows(*key);
        drop(sources);
        self.waits = None;
        Poll::Ready(if known { Ok(()) } else { Err(closed()) })
    }
}

impl<S: AsSource + 'static> Drop for Ready<'_, S> {
    fn drop(&mut self) {
        if let Some(id) = self.waits {
            let waker = Sources::forget(&self.source.local, self.source.key, self.way, id);
            drop(waker);
        }
    }
}

// ---- the clock ----------------------------------------------------------------------------------

/// A future that is ready when its time has come. Of [`LocalHandle::sleep`]. `!Send`.
///
/// Dropped, it leaves no timer behind.
///
/// ```
/// use std::time::Duration;
///
/// let event_loop = sessile::EventLoop::new();
/// let sleep = event_loop.local().sleep(Duration::from_millis(1));
/// let due = sleep.when();
/// event_loop.block_on(sleep)?;
/// assert!(std::time::Instant::now() >= due);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep {
    local: LocalHandle,
    at: Instant,
    /// Set when it is first polled.
    timer: Option<(Scheduled, Rc<Alarm>)>,
}

/// Whom to wake. Wakes also when the timer is dropped with its loop: nobody is to wait for that.
struct Alarm(RefCell<Option<Waker>>);

struct Rings(Rc<Alarm>);

impl Drop for Rings {
    fn drop(&mut self) {
        let waker = self.0.0.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Sleep {
    /// Says when it will be ready.
    #[must_use]
    pub fn when(&self) -> Instant {
        self.at
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.local.local.is_closed() || Instant::now() >= self.at {
            return Poll::Ready(());
        }
        let waker = Some(cx.waker().clone());
        match &self.timer {
            Some((_, alarm)) => drop(alarm.0.replace(waker)),
            None => {
                let alarm = Rc::new(Alarm(RefCell::new(waker)));
                let rings = Rings(Rc::clone(&alarm));
                let timer = self.local.call_at(self.at, move || drop(rings));
                self.timer = Some((timer, alarm));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((timer, alarm)) = self.timer.take() {
            timer.cancel();
            drop(alarm.0.take()); // nobody is woken by what is left of the timer
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("when", &self.at).finish_non_exhaustive()
    }
}

/// The time of [`LocalHandle::timeout`] is over, and its future had not ended. That is dropped.
///
/// It converts into an [`io::Error`] of the kind [`TimedOut`](io::ErrorKind::TimedOut).
///
/// ```
/// use std::time::Duration;
///
/// let event_loop = sessile::EventLoop::new();
/// let never = event_loop.local().timeout(Duration::ZERO, std::future::pending::<()>());
/// let elapsed = event_loop.block_on(never)?.unwrap_err();
/// assert_eq!(std::io::Error::from(elapsed).kind(), std::io::ErrorKind::TimedOut);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(Duration);

impl Elapsed {
    /// Says how much time there was.
    #[must_use]
    pub fn after(&self) -> Duration {
        self.0
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the future had not ended after {:?}", self.0)
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(io::ErrorKind::TimedOut, elapsed)
    }
}

impl LocalHandle {
    /// Makes a future that is ready after `delay`, which begins now.
    ///
    /// It is the loop that wakes it, as it calls its timers: that has to run. When the loop closes, the
    /// sleep is over.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// let begun = Instant::now();
    /// event_loop.block_on(async { local.sleep(Duration::from_millis(2)).await })?;
    /// assert!(begun.elapsed() >= Duration::from_millis(2));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sleep(&self, delay: Duration) -> Sleep {
        Sleep { local: self.clone(), at: after(delay), timer: None }
    }

    /// Makes a future that ends as `future` does, or when `limit` is over, which begins now.
    ///
    /// A future that is ready when the time is over has made it. One that has not is dropped with the
    /// future that is returned.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event_loop = sessile::EventLoop::new();
    /// let local = event_loop.local();
    /// let (reader, _writer) = std::io::pipe()?;
    /// let silent = local.watch(reader)?;
    /// let heard = event_loop.block_on(local.timeout(Duration::from_millis(1), silent.readable()))?;
    /// assert!(heard.is_err(), "nothing was written");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Elapsed`], if the time was over first.
    pub fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        let sleep = self.sleep(limit);
        async move {
            let (mut future, mut sleep) = (pin!(future), pin!(sleep));
            poll_fn(|cx| match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed(limit))),
            })
            .await
        }
    }
}

//! Managers made of closures.

use std::any::type_name;
use std::fmt;

use super::{CloseReason, CreateContext, InterruptHandle, Manager};

/// Makes a manager of a closure that cannot fail.
///
/// The closure is told about the instance that it makes; most do not look: `|_| ..`. The instance is
/// closed by dropping it, unless [`FromFn::close_with`] says otherwise.
///
/// ```
/// use sessile::{Pool, from_fn};
///
/// let logs = Pool::builder(from_fn(|cx| vec![cx.name().to_owned()])).name("log").build()?;
/// logs.with(|log| log.push("a line".to_owned()))?;
/// assert_eq!(logs.with(|log| log.len())?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// An instance that is not `Send` goes to [`Pool::new_local`](crate::Pool::new_local) or
/// [`Pool::builder_local`](crate::Pool::builder_local):
///
/// ```
/// use std::rc::Rc;
///
/// use sessile::{Pool, from_fn};
///
/// let names = Pool::new_local(from_fn(|_| Rc::<str>::from("nobody")));
/// assert_eq!(&*names.with(|name| name.clone())?, "nobody");
/// # Ok::<(), sessile::PoolError>(())
/// ```
pub fn from_fn<T, F>(
    make: F,
) -> FromFn<T, impl Fn(&CreateContext) -> anyhow::Result<T> + Send + Sync + 'static>
where
    T: 'static,
    F: Fn(&CreateContext) -> T + Send + Sync + 'static,
{
    FromFn::new(move |cx: &CreateContext| Ok(make(cx)))
}

/// Makes a manager of a closure that may fail, with any error.
///
/// The error is found again in [`PoolError::create_error`](crate::PoolError::create_error). To be
/// taken, it has to turn into [`anyhow::Error`], as every `std::error::Error + Send + Sync` does. A
/// `Box<dyn Error + Send + Sync>` does not; map it with [`anyhow::Error::from_boxed`].
///
/// ```
/// use std::fs::File;
///
/// use sessile::{Pool, try_from_fn};
///
/// let files = Pool::builder(try_from_fn(|_| File::open("Cargo.toml"))).max_size(8).build()?;
/// let length = files.with(|file| file.metadata().map(|about| about.len()))??;
/// assert!(length > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```
/// # fn connect() -> Result<u8, Box<dyn std::error::Error + Send + Sync>> { Ok(7) }
/// let pool = sessile::Pool::try_from_fn(|_| connect().map_err(anyhow::Error::from_boxed));
/// # assert_eq!(pool.with(|n| *n).unwrap(), 7);
/// ```
pub fn try_from_fn<T, E, F>(
    make: F,
) -> FromFn<T, impl Fn(&CreateContext) -> anyhow::Result<T> + Send + Sync + 'static>
where
    T: 'static,
    E: Into<anyhow::Error>,
    F: Fn(&CreateContext) -> Result<T, E> + Send + Sync + 'static,
{
    FromFn::new(move |cx: &CreateContext| make(cx).map_err(Into::into))
}

type Check<T> = Box<dyn Fn(&mut T) -> bool + Send + Sync>;
type InterruptWith<T> = Box<dyn Fn(&T) -> InterruptHandle + Send + Sync>;
type CloseWith<T> = Box<dyn Fn(T, CloseReason) -> anyhow::Result<()> + Send + Sync>;

/// Makes instances by a closure, and checks, interrupts and closes them by others if it is told to.
///
/// [`from_fn`] and [`try_from_fn`] make one. What goes beyond it is for a [`Manager`] of one's own.
///
/// ```
/// use std::process::{Child, Command, Stdio};
///
/// use sessile::{Pool, try_from_fn};
///
/// let children = try_from_fn(|_| Command::new("cat").stdin(Stdio::piped()).spawn())
///     .broken_if(|child: &mut Child| !matches!(child.try_wait(), Ok(None)))
///     .close_with(|mut child, _| {
///         drop(child.stdin.take()); // `cat` ends when nothing more can come
///         anyhow::ensure!(child.wait()?.success(), "cat failed");
///         Ok(())
///     });
/// let children = Pool::new(children);
/// # if cfg!(unix) {
/// let first = children.with(|child| child.id())?;
/// children.with(|child| child.kill())??;
/// children.with(|child| child.wait())??;
/// assert_ne!(children.with(|child| child.id())?, first); // a dead child is not handed out
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FromFn<T, F> {
    make: F,
    broken_if: Option<Check<T>>,
    valid_if: Option<Check<T>>,
    interrupt_with: Option<InterruptWith<T>>,
    close_with: Option<CloseWith<T>>,
}

impl<T, F> FromFn<T, F> {
    fn new(make: F) -> Self {
        Self { make, broken_if: None, valid_if: None, interrupt_with: None, close_with: None }
    }

    /// Asks `broken` after each use whether the instance has broken; one that has is closed, and the
    /// next use makes a new one.
    ///
    /// It is [`Manager::has_broken`]: no I/O, please. Without it, a use costs no call.
    ///
    /// ```
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::new(from_fn(|_| Some(1)).broken_if(|number| number.is_none()));
    /// assert_eq!(pool.with(|number| number.take())?, Some(1));
    /// assert_eq!(pool.with(|number| number.take())?, Some(1)); // a new one
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn broken_if(mut self, broken: impl Fn(&mut T) -> bool + Send + Sync + 'static) -> Self {
        self.broken_if = Some(Box::new(broken));
        self
    }

    /// Asks `valid` whether an instance still works, before a use that follows a long idle time.
    ///
    /// It is [`Manager::is_valid`], asked only if the pool has
    /// [`check_after`](crate::PoolBuilder::check_after). I/O is welcome.
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, try_from_fn};
    ///
    /// let server = TcpListener::bind("127.0.0.1:0")?;
    /// let address = server.local_addr()?;
    /// let streams = try_from_fn(move |_| TcpStream::connect(address))
    ///     .valid_if(|stream| matches!(stream.take_error(), Ok(None)));
    /// let streams = Pool::builder(streams).check_after(Duration::from_secs(30)).build()?;
    /// assert_eq!(streams.with(|stream| stream.peer_addr())??, address);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn valid_if(mut self, valid: impl Fn(&mut T) -> bool + Send + Sync + 'static) -> Self {
        self.valid_if = Some(Box::new(valid));
        self
    }

    /// Has `handle` make, for each new instance, the closure that stops it from another thread.
    ///
    /// It is [`Manager::interrupt`]. `handle` runs once, on the owner; what it returns may be called
    /// from any thread, more than once, and after the instance has closed.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let stoppable = from_fn(|_| Arc::new(AtomicBool::new(false))).interrupt_with(|stop| {
    ///     let stop = Arc::clone(stop);
    ///     move || stop.store(true, Ordering::Relaxed)
    /// });
    /// let pool = Pool::new(stoppable);
    /// # pool.with(|stop| assert!(!stop.load(Ordering::Relaxed))).unwrap();
    /// ```
    #[must_use]
    pub fn interrupt_with<I>(mut self, handle: impl Fn(&T) -> I + Send + Sync + 'static) -> Self
    where
        I: Fn() + Send + Sync + 'static,
    {
        self.interrupt_with =
            Some(Box::new(move |instance| InterruptHandle::new(handle(instance))));
        self
    }

    /// Closes each instance by `close`, which owns it and is told why.
    ///
    /// It is [`Manager::close`], and runs where that runs. An error is counted and reported; the
    /// instance is gone either way.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let (sums, all_sums) = mpsc::channel();
    /// let pool = Pool::new(from_fn(|_| 0).close_with(move |sum, _| Ok(sums.send(sum)?)));
    /// pool.with(|sum| *sum += 3)?;
    /// pool.close(Duration::from_secs(1));
    /// assert_eq!(all_sums.try_iter().sum::<i32>(), 3);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn close_with(
        mut self,
        close: impl Fn(T, CloseReason) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.close_with = Some(Box::new(close));
        self
    }
}

impl<T, F> Manager for FromFn<T, F>
where
    T: 'static,
    F: Fn(&CreateContext) -> anyhow::Result<T> + Send + Sync + 'static,
{
    type Instance = T;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<T> {
        (self.make)(cx)
    }

    fn has_broken(&self, instance: &mut T) -> bool {
        self.broken_if.as_ref().is_some_and(|broken| broken(instance))
    }

    fn can_break(&self) -> bool {
        self.broken_if.is_some()
    }

    fn is_valid(&self, instance: &mut T) -> anyhow::Result<()> {
        let valid = self.valid_if.as_ref().is_none_or(|valid| valid(instance));
        anyhow::ensure!(valid, "`valid_if` said no");
        Ok(())
    }

    fn interrupt(&self, instance: &T) -> Option<InterruptHandle> {
        self.interrupt_with.as_ref().map(|handle| handle(instance))
    }

    fn close(&self, instance: T, reason: CloseReason) -> anyhow::Result<()> {
        match &self.close_with {
            Some(close) => close(instance, reason),
            None => {
                drop(instance);
                Ok(())
            }
        }
    }
}

impl<T, F> fmt::Debug for FromFn<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn")
            .field("instance", &type_name::<T>())
            .field("broken_if", &self.broken_if.is_some())
            .field("valid_if", &self.valid_if.is_some())
            .field("interrupt_with", &self.interrupt_with.is_some())
            .field("close_with", &self.close_with.is_some())
            .finish_non_exhaustive()
    }
}

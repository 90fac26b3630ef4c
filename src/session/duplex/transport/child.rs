//! Frames over a child's standard input and output.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::{Connect, Framed, Link, LinkOptions, Oversized};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::sys;

/// How long a child that was lost has to end by itself, so that its exit status can be had.
const MOMENT: Duration = Duration::from_millis(250);

/// A child process that is started for the session, which talks over its standard input and output.
///
/// When the session closes, the child's input ends. If it has not ended of itself in half of the time
/// that is left for closing, it gets SIGTERM; and SIGKILL at the end of that time, as does whatever it
/// has started and left. A child whose output ends is lost: it has a moment to exit, and is killed. On
/// Linux it also ends when the session's thread does, however that may be. Its standard error is what
/// the command says.
///
/// ```
/// use std::process::Command;
/// use std::time::Duration;
///
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{ChildStdio, Session};
///
/// let child = ChildStdio::new(Command::new("cat"));
/// let process = child.process();
/// let session = Session::builder(JsonRpc::new()).connect(child)?;
/// assert!(process.id().is_some());
/// assert!(session.close(Duration::from_secs(5)));
/// assert!(process.exit_status().is_some_and(|status| status.success()));
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
pub struct ChildStdio {
    command: Command,
    process: ChildProcess,
    on_stderr: Option<OnStderr>,
}

type OnStderr = Arc<Mutex<dyn FnMut(&[u8]) + Send>>;

impl ChildStdio {
    /// The child that this command starts. Its standard input and output are set here.
    #[must_use]
    pub fn new(mut command: Command) -> Self {
        sys::detach_and_bind(&mut command);
        Self { command, process: ChildProcess::default(), on_stderr: None }
    }

    /// Has `handler` called with what the child writes to its standard error, as it comes.
    ///
    /// # Threads
    ///
    /// It is called on a thread of its own, and may block: the child is then held back.
    #[must_use]
    pub fn on_stderr(mut self, handler: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.command.stderr(Stdio::piped());
        self.on_stderr = Some(Arc::new(Mutex::new(handler)));
        self
    }

    /// What can be known of the child, while the session lives and after it.
    #[must_use]
    pub fn process(&self) -> ChildProcess {
        self.process.clone()
    }
}

impl fmt::Debug for ChildStdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildStdio")
            .field("command", &self.command)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// Tells of all that comes from there, until its end.
fn tell(mut from: ChildStderr, handler: &OnStderr) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = contain(|| handler(&buffer[..read]));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// What can be known of a session's [child](ChildStdio): of the one that runs, or ran last.
#[derive(Clone, Default)]
pub struct ChildProcess {
    shared: Arc<(Mutex<Known>, Condvar)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    id: Option<u32>,
    status: Option<ExitStatus>,
}

impl ChildProcess {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, id: u32, status: Option<ExitStatus>) {
        *self.known() = Known { id: Some(id), status };
        self.shared.1.notify_all();
    }

    /// Its process id. `None`: none was started yet.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.known().id
    }

    /// How it ended. `None`: it runs, or none was started yet.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.known().status
    }

    /// Waits until it has ended, no longer than this, and says how.
    #[must_use]
    pub fn wait(&self, within: Duration) -> Option<ExitStatus> {
        let deadline = Deadline::after(within);
        let mut known = self.known();
        while known.status.is_none() {
            known = deadline.wait(&self.shared.1, known).ok()?;
        }
        known.status
    }
}

impl fmt::Debug for ChildProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { id, status } = *self.known();
        f.debug_struct("ChildProcess").field("id", &id).field("exit_status", &status).finish()
    }
}

impl Connect for ChildStdio {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        // One socket for both, which does not block on our side and does on the child's.
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        self.command.stdin(theirs.try_clone()?).stdout(theirs);
        let spawned = self.command.spawn();
        // The command would keep its ends open, and nobody would see the child's end.
        self.command.stdin(Stdio::null()).stdout(Stdio::null());
        let program = || format!("starting {}", self.command.get_program().to_string_lossy());
        let mut child = spawned.with_context(program)?;
        self.process.learn(child.id(), None);
        let stderr = child.stderr.take().zip(self.on_stderr.clone());
        let child = Reaped { child, process: self.process.clone() };
        if let Some((stderr, handler)) = stderr {
            let tells = thread::Builder::new().name("sessile-stderr".to_owned());
            tells.spawn(move || tell(stderr, &handler)).context("no thread for standard error")?;
        }
        Ok(Box::new(WithChild {
            frames: Framed::new(ours, None, options),
            child,
            had_its_time: false,
        }))
    }

    /// The child is to end with the thread that starts it, which has to be the session's.
    fn blocks(&self) -> bool {
        false
    }
}

struct WithChild {
    frames: Framed<UnixStream>,
    child: Reaped,
    had_its_time: bool,
}

impl Link for WithChild {
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        self.frames.sources()
    }

    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let read = self.frames.read(frame);
        // A child that is gone hears no answers. One that is about to go is noticed by writing to it.
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof)
            && sys::has_exited(self.child.pid())
        {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the child has ended"));
        }
        read
    }

    fn take_oversized(&mut self) -> Vec<Oversized> {
        self.frames.take_oversized()
    }

    fn queue(&mut self, frame: &[u8]) -> io::Result<()> {
        self.frames.queue(frame)
    }

    fn flush(&mut self) -> io::Result<usize> {
        self.frames.flush()
    }

    /// Nothing else is left to do for this thread: so it may wait here.
    fn close(&mut self, within: Duration) {
        self.had_its_time = true;
        let socket = self.frames.reader();
        let _ = socket.shutdown(Shutdown::Write);
        if self.child.ends(socket, Deadline::after(within / 2)) {
            return;
        }
        // It leads a group of its own, and has not been reaped: the number is still its.
        sys::kill(-self.child.pid(), libc::SIGTERM);
        self.child.ends(socket, Deadline::after(within / 2)); // or it is killed when it is dropped
    }

    fn close_takes(&self, within: Duration) -> Duration {
        within / 2
    }
}

impl Drop for WithChild {
    fn drop(&mut self) {
        // It was lost, and is about to end.
        if !self.had_its_time {
            self.child.ends(self.frames.reader(), Deadline::after(MOMENT));
        }
    }
}

/// A child that is killed, with what it has started and left, when it is dropped.
struct Reaped {
    child: Child,
    process: ChildProcess,
}

impl Reaped {
    fn pid(&self) -> libc::pid_t {
        self.child.id().try_into().unwrap_or(libc::pid_t::MAX)
    }

    /// Waits for its end. What it says meanwhile is let go: it could not end while that is not read.
    fn ends(&self, mut socket: &UnixStream, deadline: Deadline) -> bool {
        let (mut pause, mut may_read) = (Duration::from_millis(1), true);
        let mut scratch = [0; 4096];
        while !sys::has_exited(self.pid()) {
            if deadline.has_passed() {
                return false;
            }
            let wait = deadline.remaining().map_or(pause, |left| left.min(pause));
            if may_read {
                let _ = sys::poll(&mut [sys::readable(socket)], wait);
                may_read = !matches!(socket.read(&mut scratch), Ok(0));
            } else {
                thread::sleep(wait); // there is nothing more to be woken by
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // It leads a session of its own, and has not been reaped: the number is still its.
        sys::kill(-self.pid(), libc::SIGKILL);
        let status = self.child.wait().ok(); // killed, so that this is a moment
        self.process.learn(self.child.id(), status);
    }
}

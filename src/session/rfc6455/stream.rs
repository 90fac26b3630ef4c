//! A blocking socket that keeps to a deadline, or one that never blocks.
//!
//! Whoever reads or writes says first until when. What is not done by then is `WouldBlock`, "again
//! later": nothing of what was read or is yet to be written gets lost. A socket that [never
//! waits](Tcp::never_wait) says so of all that cannot be done at once.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;

/// Waits shorter than this are set as they are.
const SHORT: Duration = Duration::from_millis(20);

/// The socket, as far as others than the owner may know it.
pub(crate) struct Socket {
    tcp: TcpStream,
    shut: AtomicBool,
}

impl Socket {
    /// Whoever waits on it, on whichever thread, is told at once that it is over.
    pub(crate) fn shut_from_afar(&self) {
        self.shut.store(true, Ordering::Relaxed);
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    /// By the owner: nothing more is said or heard.
    pub(in crate::session) fn shut(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    /// By the owner: nothing more is said.
    #[cfg(all(feature = "duplex", unix))]
    pub(super) fn shut_writing(&self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
    }

    pub(crate) fn was_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }
}

/// Until when one may wait, and how often one may look after that, without waiting.
#[derive(Clone, Copy)]
pub(in crate::session) struct Patience {
    /// `None`: not at all.
    until: Option<Deadline>,
    looks: u32,
}

impl Patience {
    pub(in crate::session) const NONE: Self = Self { until: None, looks: 0 };
    /// Does what can be done at once, once.
    pub(in crate::session) const ONE_LOOK: Self = Self { until: None, looks: 1 };

    pub(in crate::session) fn until(until: Deadline, looks: u32) -> Self {
        Self { until: Some(until), looks }
    }

    /// The same, and no longer than this.
    pub(super) fn at_most(self, time: Duration) -> Self {
        let until = self.until.map(|until| until.earlier(Deadline::after(time)));
        Self { until, ..self }
    }

    fn left(self) -> Option<Duration> {
        self.until.map_or(Some(Duration::ZERO), Deadline::remaining)
    }
}

pub(crate) struct Tcp {
    socket: Arc<Socket>,
    pub(in crate::session) reads: Patience,
    pub(in crate::session) writes: Patience,
    /// The time-outs that the socket has now; `None` while nobody knows.
    read_timeout: Option<Option<Duration>>,
    write_timeout: Option<Option<Duration>>,
    /// Whether it waits at all.
    waits: bool,
    quick_ack: bool,
    /// Something was read, and nothing written since.
    owes_ack: bool,
    /// The last read has found less than it had room for: there was no more.
    pub(super) drained: bool,
    /// How much was ever read, and when it was last.
    pub(in crate::session) received: u64,
    pub(in crate::session) heard_at: Instant,
}

impl Tcp {
    pub(in crate::session) fn new(tcp: TcpStream, quick_ack: bool) -> io::Result<Self> {
        // What is no TCP, a Unix socket, has no such thing to set.
        let _ = tcp.set_nodelay(true);
        Ok(Self {
            socket: Arc::new(Socket { tcp, shut: AtomicBool::new(false) }),
            reads: Patience::NONE,
            writes: Patience::NONE,
            read_timeout: None,
            write_timeout: None,
            waits: true,
            quick_ack,
            owes_ack: false,
            drained: true,
            received: 0,
            heard_at: Instant::now(),
        })
    }

    pub(in crate::session) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(in crate::session) fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.tcp.peer_addr()
    }

    /// From here on it does what can be done at once, and asks no patience of anybody. The socket
    /// is to be watched for readiness.
    #[cfg(all(feature = "duplex", unix))]
    pub(in crate::session) fn never_wait(&mut self) -> io::Result<()> {
        self.waits = false;
        self.socket.tcp.set_nonblocking(true)
    }

    #[cfg(all(feature = "duplex", unix))]
    pub(in crate::session) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.socket.tcp)
    }

    fn await_readable(&mut self, left: Option<Duration>) -> io::Result<()> {
        if let Some(timeout) = to_set(self.read_timeout, left) {
            self.socket.tcp.set_read_timeout(timeout)?;
            self.read_timeout = Some(timeout);
        }
        // A server that does not know `TCP_NODELAY`, and writes an answer in two pieces, waits for
        // us to acknowledge the first: 40 ms, if we leave that to the kernel. What we write
        // acknowledges too.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.quick_ack && self.owes_ack {
            let _ = socket2::SockRef::from(&self.socket.tcp).set_tcp_quickack(true);
        }
        Ok(())
    }

    fn await_writable(&mut self, left: Option<Duration>) -> io::Result<()> {
        if let Some(timeout) = to_set(self.write_timeout, left) {
            self.socket.tcp.set_write_timeout(timeout)?;
            self.write_timeout = Some(timeout);
        }
        Ok(())
    }

    fn without_waiting<R>(&self, run: impl FnOnce(&TcpStream) -> io::Result<R>) -> io::Result<R> {
        let tcp = &self.socket.tcp;
        tcp.set_nonblocking(true)?;
        let out = run(tcp);
        tcp.set_nonblocking(false)?;
        out
    }
}

/// The time-out to set for a wait as long as `left`, if the one that is set will not do.
///
/// One that is too short does no harm, the wait goes on. So it is set to somewhat less than is
/// left, and will do for the next waits as well: most need no system call for it.
fn to_set(set: Option<Option<Duration>>, left: Option<Duration>) -> Option<Option<Duration>> {
    match (set, left) {
        (Some(None), None) => None,
        (_, None) => Some(None),
        (Some(Some(set)), Some(left)) if set <= left && left / 2 <= set => None,
        (_, Some(left)) if left <= SHORT => Some(Some(left.max(Duration::from_millis(1)))),
        (_, Some(left)) => Some(Some(left / 4 * 3)),
    }
}

/// What a wait that was too long looks like. On Unix `TimedOut` is something else: the peer's host
/// has acknowledged nothing for many minutes.
fn has_run_out(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::WouldBlock || cfg!(windows) && kind == io::ErrorKind::TimedOut
}

/// Reads or writes until it is done or there is no patience left.
macro_rules! patiently {
    ($tcp:ident, $patience:ident, $wait:ident, |$socket:ident| $run:expr) => {
        loop {
            let left = if $tcp.waits { $tcp.$patience.left() } else { None };
            if left == Some(Duration::ZERO) {
                if $tcp.$patience.looks == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                $tcp.$patience.looks -= 1;
                break $tcp.without_waiting(|mut $socket| $run);
            }
            if $tcp.waits {
                $tcp.$wait(left)?;
            }
            let mut $socket = &$tcp.socket.tcp;
            match $run {
                Err(error) if $tcp.waits && has_run_out(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done,
            }
        }
    };
}

impl Read for Tcp {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = patiently!(self, reads, await_readable, |socket| socket.read(buf))?;
        self.owes_ack = true;
        self.drained = got < buf.len();
        self.received += got as u64;
        self.heard_at = Instant::now();
        Ok(got)
    }
}

impl Write for Tcp {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let done = patiently!(self, writes, await_writable, |socket| socket.write(buf))?;
        self.owes_ack = false;
        Ok(done)
    }

    /// TLS writes its records by this.
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let done = patiently!(self, writes, await_writable, |socket| socket.write_vectored(bufs))?;
        self.owes_ack = false;
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// With or without TLS.
pub(crate) enum Stream {
    Plain(Tcp),
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::TlsStream>),
}

impl Stream {
    pub(in crate::session) fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.tcp(),
        }
    }

    pub(in crate::session) fn tcp_mut(&mut self) -> &mut Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.tcp_mut(),
        }
    }

    /// Whether a read would find nothing now, for all that is known without asking the system.
    pub(in crate::session) fn is_drained(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.drained,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.is_drained(),
        }
    }

    /// Whether [`flush`](Write::flush) has something to do, be it only what TLS says by itself.
    pub(in crate::session) fn wants_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.wants_write(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.flush(),
        }
    }
}

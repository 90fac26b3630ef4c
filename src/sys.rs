//! The system calls that the standard library does not offer. Nothing here keeps state.

// Each function wraps one call, and leaves no condition to its caller.
#![allow(unsafe_code)]
// Descriptors are passed along, and children looked at, by one of its users only.
#![cfg_attr(not(feature = "cpython"), allow(dead_code))]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

/// What to wait for on a descriptor, and what came.
pub(crate) use libc::pollfd as Watched;

pub(crate) fn readable(fd: &impl AsRawFd) -> Watched {
    Watched { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

pub(crate) fn writable(fd: &impl AsRawFd) -> Watched {
    Watched { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 }
}

/// Waits until one of them is ready, or the time is over, or a signal came.
///
/// The time is rounded up to whole milliseconds, so that who waits for a moment has reached it.
pub(crate) fn poll(watched: &mut [Watched], time: Duration) -> io::Result<()> {
    let millis = time.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: valid: pointer and length are those of one slice. Aliasing: the slice is borrowed
    // exclusively, and the kernel does not keep the pointer.
    let n = unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, millis) };
    if n < 0 {
        for one in watched {
            one.revents = 0;
        }
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
    }
    Ok(())
}

/// A clock that does not run yet; its descriptor is readable when its time is over.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn timer() -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: valid: the call has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets such a clock to ring once, after this time; or not at all. It is quiet until then.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn set_timer(timer: BorrowedFd<'_>, after: Option<Duration>) -> io::Result<()> {
    // Zero would mean never.
    let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
    let time = libc::timespec {
        tv_sec: after.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: after.subsec_nanos() as _,
    };
    let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let spec = libc::itimerspec { it_interval: once, it_value: time };
    // SAFETY: valid: `spec` is read during the call; no old value is asked for. Nothing aliases.
    let code =
        unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const spec, ptr::null_mut()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;

/// Sends a few descriptors, eight at most, and one byte to carry them.
///
/// A socket that does not block is needed for this not to.
pub(crate) fn pass<const N: usize>(
    socket: BorrowedFd<'_>,
    fds: [BorrowedFd<'_>; N],
) -> io::Result<()> {
    const { assert!(N <= 8) }
    let payload = mem::size_of::<[RawFd; N]>();

    /// Room for one control message of eight descriptors, aligned for its header.
    #[repr(C)]
    union Control {
        header: libc::cmsghdr,
        // On 64-bit systems the header takes 16 bytes and the descriptors 32 at most.
        room: [u8; 64],
    }

    let byte = [0_u8];
    let mut part = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: byte.len() };
    let mut control = Control { room: [0; 64] };
    // SAFETY: valid: all fields are integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: arithmetic on the length only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(payload as u32) } as _;
    let raw = fds.map(|fd| fd.as_raw_fd());
    // SAFETY: valid: `msg_control` is aligned for a header and 64 bytes long, more than header and
    // payload take, so the first header lies within it and is not null, and the payload after it
    // too. Aliasing: `control` is ours, and only reached through this pointer.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
        ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), payload);
    }
    // SAFETY: valid: the message points to `part`, hence to `byte`, and to `control`, which all
    // outlive the call. Aliasing: sending only reads `byte`.
    let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, NO_SIGNAL) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has reads and writes fail that would have to wait. It holds for all copies of the descriptor.
pub(crate) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags >= 0 {
        let flags = flags | libc::O_NONBLOCK;
        // SAFETY: as above.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) } >= 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

/// Has `descriptor` lead to where `other` leads, for this process and for what it starts.
#[cfg(feature = "duplex")]
pub(crate) fn redirect(descriptor: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: no pointers are passed, and both are open. Aliasing: who has borrowed `descriptor`
        // goes on with one that is open; none is ours to close.
        if unsafe { libc::dup2(other.as_raw_fd(), descriptor.as_raw_fd()) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) {
            return Err(error);
        }
    }
}

/// What the system holds a child to, and each process that it starts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Bytes of memory of its own. Linux only.
    pub(crate) memory: Option<u64>,
    /// Processor time.
    pub(crate) cpu_seconds: Option<u64>,
}

impl Limits {
    /// Makes them this process's own.
    fn apply(self) -> io::Result<()> {
        let set = |resource, soft: u64, hard: u64| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: valid: `limit` is a whole `rlimit`, and only read. Aliasing: it is ours.
            let outcome = unsafe { libc::setrlimit(resource, &raw const limit) };
            if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        #[cfg(target_os = "linux")]
        if let Some(bytes) = self.memory {
            set(libc::RLIMIT_DATA, bytes, bytes)?;
        }
        // At the first SIGXCPU, which says why; a second later SIGKILL, which nobody ignores.
        self.cpu_seconds.map_or(Ok(()), |s| set(libc::RLIMIT_CPU, s, s.saturating_add(1)))
    }
}

/// Holds the child to these limits from its first instruction on.
pub(crate) fn limit(command: &mut Command, limits: Limits) {
    // SAFETY: as below: between fork and exec this makes system calls only.
    unsafe { command.pre_exec(move || limits.apply()) };
}

/// Puts the child into a session of its own, and lets it end with the thread that spawns it.
///
/// Of its own: a Ctrl-C at our terminal is not meant for it, it cannot ask for a password there, and
/// one signal reaches everything it starts. That it ends with its thread holds on Linux only.
pub(crate) fn detach_and_bind(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: no pointers are passed.
        unsafe { libc::setsid() };
        #[cfg(target_os = "linux")]
        {
            // SAFETY: this operation takes one number.
            if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // If the parent died before the call above, nobody would ever tell. Its *thread* cannot
            // have: it waits for the child to get past here.
            // SAFETY: no arguments.
            if unsafe { libc::getppid() }.cast_unsigned() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = parent;
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` makes system calls only: it allocates nothing (the
    // errors are numbers), takes no lock, and touches no memory that another thread may be changing.
    unsafe { command.pre_exec(prepare) };
}

/// Whether to wait for a lock that another process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Yes,
    No,
}

/// Locks a file until it is closed, everywhere it is open; whether that was possible.
pub(crate) fn lock(file: &impl AsRawFd, wait: Wait) -> io::Result<bool> {
    let how = if wait == Wait::Yes { 0 } else { libc::LOCK_NB };
    loop {
        // SAFETY: no pointers are passed.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | how) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// The user that this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: no arguments; it cannot fail.
    unsafe { libc::geteuid() }
}

/// Kills a process that need not be a child of ours, if it is the right one when looked at.
///
/// It is held by a descriptor from before the look until after the signal, so that no other process
/// that may have got its number meanwhile can be hit.
#[cfg(target_os = "linux")]
pub(crate) fn kill_if(pid: libc::pid_t, is_right: impl FnOnce() -> bool) -> bool {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd) = RawFd::try_from(fd) else {
        return false;
    };
    if fd < 0 {
        return false;
    }
    // SAFETY: valid: the call has just given us this descriptor, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: valid: a null pointer asks for the information that `kill` would send.
    is_right()
        && unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), libc::SIGKILL, no_info, 0)
        } == 0
}

/// Signals a process; a negative number means the group of that leader.
///
/// To hit the right one, the caller makes sure that the process has not been reaped.
pub(crate) fn kill(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: no pointers are passed.
    unsafe { libc::kill(pid, signal) };
}

/// Whether our child has ended. It is left for the caller to reap.
pub(crate) fn has_exited(pid: libc::pid_t) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: valid: `info` is large enough for what is written. Aliasing: it is ours.
    let outcome = unsafe {
        libc::waitid(
            libc::P_PID,
            pid.cast_unsigned(),
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    };
    // SAFETY: valid: zero is a value of every field, and waitid writes whole fields.
    let info = unsafe { info.assume_init() };
    // An error means that there is no such child any more. Without one, the signal number tells
    // whether `info` was written at all.
    outcome != 0 || info.si_signo != 0
}

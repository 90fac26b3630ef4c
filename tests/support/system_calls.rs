//! Counts the system calls of a thread. The kernel asks a supervisor about each (`seccomp`), who counts
//! it and lets it through.

#![allow(unsafe_code)] // the kernel's interface

use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread;

/// Memory is the allocator's affair; and what a thread does on its way out is nobody's.
const NOT_COUNTED: [libc::c_long; 10] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
];

/// How many system calls `run` makes, on a thread of its own. `None` where the kernel will not say.
#[track_caller]
pub(crate) fn of(run: impl FnOnce() + Send + 'static) -> Option<usize> {
    const NOT_YET: RawFd = -1;
    const REFUSED: RawFd = -2;
    let shared = Arc::new((AtomicI32::new(NOT_YET), AtomicUsize::new(0)));
    let told = Arc::clone(&shared);
    let counted = thread::spawn(move || {
        let (listener, count) = &*told;
        let Some(fd) = listen() else { return listener.store(REFUSED, Ordering::SeqCst) };
        // By a plain store: to send it would be a system call, which waits for who is to get it.
        listener.store(fd, Ordering::SeqCst);
        let before = count.load(Ordering::SeqCst);
        run();
        count.store(count.load(Ordering::SeqCst) - before, Ordering::SeqCst);
    });
    let (listener, count) = &*shared;
    super::support::poll_until("there is a listener", || {
        listener.load(Ordering::SeqCst) != NOT_YET
    });
    let fd = listener.load(Ordering::SeqCst);
    if fd != REFUSED {
        // SAFETY: a descriptor that the kernel has just made, and nobody else closes.
        let listener = unsafe { OwnedFd::from_raw_fd(fd) };
        while !counted.is_finished() {
            supervise(&listener, || {
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
        // Closed here: what the thread still calls, on its way out, is refused, not held.
    }
    counted.join().expect("what it ran has not panicked");
    (fd != REFUSED).then(|| count.load(Ordering::SeqCst))
}

/// Has the kernel ask about every call of this thread from now on.
fn listen() -> Option<RawFd> {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let mut program = vec![statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, number)];
    for (n, call) in NOT_COUNTED.into_iter().enumerate() {
        let to_the_end = (NOT_COUNTED.len() - n) as u8;
        program.push(libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: to_the_end,
            jf: 0,
            k: call as u32,
        });
    }
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    program.push(statement(answer, libc::SECCOMP_RET_USER_NOTIF));
    program.push(statement(answer, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: of this thread only, and it takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return None;
    }
    // SAFETY: `program` and what it points to live until the call returns; the kernel copies them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)
}

/// Lets one call through, if there is one before long.
fn supervise(listener: &OwnedFd, count: impl FnOnce()) {
    let fd = listener.as_raw_fd();
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one `pollfd`, which lives until the call returns.
    unsafe { libc::poll(&raw mut asked, 1, 1) };
    if asked.revents & libc::POLLIN == 0 {
        return;
    }
    // SAFETY: plain numbers; the kernel wants them to be zero.
    let mut question: libc::seccomp_notif = unsafe { zeroed() };
    // SAFETY: of the kind that this request fills in.
    if unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question) } != 0 {
        return;
    }
    count();
    // SAFETY: plain numbers.
    let mut answer: libc::seccomp_notif_resp = unsafe { zeroed() };
    answer.id = question.id;
    answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    // SAFETY: of the kind that this request reads.
    unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

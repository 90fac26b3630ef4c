//! A post that costs the poster more system calls than there are sleeps.
//!
//! In a binary of its own: the allocator's locks, over which the threads of other tests would contend,
//! make system calls too.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // the kernel is asked to tell

mod support;

use std::io::PipeReader;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use sessile::EventLoop;
use sessile::event_loop::Interest;
use support::{PATIENCE, promptly};

/// One call wakes a loop that sleeps, however much is posted; and while it is awake there is none.
#[test]
fn a_post_makes_a_system_call_while_the_loop_is_awake_or_two_while_it_sleeps() {
    for in_poller in [false, true] {
        let (tell, told) = mpsc::channel();
        let looping = thread::spawn(move || {
            let event_loop = EventLoop::new();
            let (reader, _writer) = std::io::pipe().unwrap();
            let never = |_: &PipeReader, _| panic!("nobody writes");
            let add = || event_loop.local().add(reader, Interest::READABLE, never).unwrap();
            let _source = in_poller.then(add);
            let os_thread = std::fs::read_link("/proc/thread-self").unwrap();
            tell.send((event_loop.handle(), os_thread)).unwrap();
            event_loop.run().unwrap();
        });
        let (handle, os_thread) = told.recv().unwrap();
        for _ in 0..20 {
            support::wait_asleep(&os_thread);
            let (go, gate) = mpsc::channel::<()>();
            let posts = handle.clone();
            let asleep = system_calls_of(move || {
                // The first holds the loop, so that it does not sleep again before the last.
                posts.call_soon_threadsafe(move || gate.recv_timeout(PATIENCE).unwrap()).unwrap();
                for _ in 0..1000 {
                    posts.call_soon_threadsafe(|| ()).unwrap();
                }
            });
            let posts = handle.clone();
            let awake = system_calls_of(move || {
                for n in 0..1000 {
                    posts.call_soon_threadsafe(|| ()).unwrap();
                    posts.call_later_threadsafe(Duration::ZERO, || ()).unwrap();
                    posts.call(move || n).unwrap().detach();
                }
            });
            go.send(()).unwrap();
            handle.call(|| ()).unwrap().join_timeout(PATIENCE).unwrap().unwrap();
            match (asleep, awake) {
                (Some(asleep), Some(awake)) => {
                    assert_eq!((asleep.len(), &*awake), (1, &[][..]), "{asleep:?}");
                }
                _ => eprintln!("this kernel does not tell of system calls: not counted"),
            }
        }
        handle.stop();
        promptly("join", move || looping.join().unwrap());
    }
}

/// Memory is the allocator's affair; and what a thread does on its way out is nobody's.
const NOT_NOTED: [libc::c_long; 10] = [
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

/// The numbers of the system calls that `run` makes, on a thread of its own. `None` where the kernel
/// will not say.
#[track_caller]
fn system_calls_of(run: impl FnOnce() + Send + 'static) -> Option<Vec<i32>> {
    const NOT_YET: RawFd = -1;
    const REFUSED: RawFd = -2;
    #[derive(Default)]
    struct Shared {
        listener: AtomicI32,
        count: AtomicUsize,
        begin: AtomicUsize,
        end: AtomicUsize,
    }
    let shared = Arc::new(Shared { listener: NOT_YET.into(), ..Shared::default() });
    let told = Arc::clone(&shared);
    let counted = thread::spawn(move || {
        let Some(fd) = listen() else { return told.listener.store(REFUSED, Ordering::SeqCst) };
        // By plain stores: to send it would be a system call, which waits for who is to get it.
        told.listener.store(fd, Ordering::SeqCst);
        told.begin.store(told.count.load(Ordering::SeqCst), Ordering::SeqCst);
        run();
        told.end.store(told.count.load(Ordering::SeqCst), Ordering::SeqCst);
    });
    support::poll_until("there is a listener", || {
        shared.listener.load(Ordering::SeqCst) != NOT_YET
    });
    let fd = shared.listener.load(Ordering::SeqCst);
    let mut calls = Vec::new();
    if fd != REFUSED {
        // SAFETY: a descriptor that the kernel has just made, and nobody else closes.
        let listener = unsafe { OwnedFd::from_raw_fd(fd) };
        while !counted.is_finished() {
            supervise(&listener, |call| {
                calls.push(call);
                shared.count.store(calls.len(), Ordering::SeqCst);
            });
        }
        // Closed here: what the thread still calls, on its way out, is refused, not held.
    }
    counted.join().expect("what it ran has not panicked");
    let counted = shared.begin.load(Ordering::SeqCst)..shared.end.load(Ordering::SeqCst);
    (fd != REFUSED).then(|| calls[counted].to_vec())
}

/// Has the kernel ask about every call of this thread from now on.
fn listen() -> Option<RawFd> {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let mut program = vec![statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, number)];
    for (n, call) in NOT_NOTED.into_iter().enumerate() {
        let to_the_end = (NOT_NOTED.len() - n) as u8;
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
fn supervise(listener: &OwnedFd, note: impl FnOnce(i32)) {
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
    note(question.data.nr);
    // SAFETY: plain numbers.
    let mut answer: libc::seccomp_notif_resp = unsafe { zeroed() };
    answer.id = question.id;
    answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    // SAFETY: of the kind that this request reads.
    unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

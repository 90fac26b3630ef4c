//! The two halves of an asymmetric fence.
//!
//! In a Dekker handshake both sides store, fence, then load the other's word. Ours is lopsided: an
//! owner goes through it at every use, a closer once in an instance's life. So the owner's half,
//! [`light`], only stops the compiler, and the closer's half, [`heavy`], has the kernel make *every*
//! thread of the process pass a full barrier (`membarrier`, private expedited, Linux 4.14).
//!
//! Off Linux, both halves are `fence(SeqCst)`; the private `cfg(sessile_fence)` forces that. On a
//! Linux whose kernel refuses the call when the first pool is built ([`is_light_enough`]; the private
//! `cfg(sessile_no_membarrier)` plays that kernel), owners must not use `light` at all: the pool then
//! sends every use through the slow path, which has the [`full`] fence. So the fast path needs no
//! branch to find out.

#![allow(unsafe_code)] // system calls

#[cfg(all(target_os = "linux", not(sessile_fence), not(sessile_loom)))]
mod pair {
    use std::sync::atomic::{AtomicU8, Ordering, compiler_fence, fence};

    const UNKNOWN: u8 = 0;
    const REGISTERED: u8 = 1;
    const REFUSED: u8 = 2;

    /// Not a lock: two threads may both ask the kernel and get the same answer, and a child that is
    /// forked meanwhile asks again.
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: `membarrier` takes a command and two integers, and touches no memory of ours.
        // Neither validity nor aliasing of anything depends on it.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    fn register() -> bool {
        !cfg!(sessile_no_membarrier) && membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    pub(super) fn is_light_enough() -> bool {
        match ANSWER.load(Ordering::SeqCst) {
            UNKNOWN => {
                let answer = if register() { REGISTERED } else { REFUSED };
                let first = (Ordering::SeqCst, Ordering::SeqCst);
                match ANSWER.compare_exchange(UNKNOWN, answer, first.0, first.1) {
                    Ok(_) => answer == REGISTERED,
                    Err(theirs) => theirs == REGISTERED,
                }
            }
            answer => answer == REGISTERED,
        }
    }

    #[inline(always)]
    pub(super) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(super) fn heavy() -> bool {
        fence(Ordering::SeqCst);
        if !is_light_enough() {
            return true; // all owners use `full`
        }
        // The registration belongs to the address space; should it be gone, it is renewed.
        let passed = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
            || (register() && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED));
        fence(Ordering::SeqCst);
        passed
    }
}

#[cfg(any(not(target_os = "linux"), sessile_fence, sessile_loom))]
mod pair {
    use crate::sync::{Ordering, fence};

    pub(super) fn is_light_enough() -> bool {
        true
    }

    #[inline(always)]
    pub(super) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(super) fn heavy() -> bool {
        fence(Ordering::SeqCst);
        true
    }
}

/// Whether owners may use [`light`]. If not, they must use [`full`] instead. It never changes.
pub(crate) fn is_light_enough() -> bool {
    pair::is_light_enough()
}

/// The owner's half: orders its store before its next load, as seen by a closer in [`heavy`].
#[inline(always)]
pub(crate) fn light() {
    pair::light();
}

/// The owner's half on the slow path: good against every closer.
pub(crate) fn full() {
    crate::sync::fence(crate::sync::Ordering::SeqCst);
}

/// The closer's half. When it returns `true`, every owner has passed a full barrier since the call
/// began, or uses [`full`].
///
/// `false` means that the kernel has refused (a sandbox that was put up after the start, say): then
/// nothing is known about any owner, and the closer must leave the instance to it.
#[must_use]
pub(crate) fn heavy() -> bool {
    pair::heavy()
}

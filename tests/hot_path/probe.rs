//! The program that `tests/hot_path.rs` looks into: it single-steps through a hit, by the
//! processor's trap flag, and prints where each instruction was.

#![allow(unsafe_code)] // symbols to be found by name, and the trap flag

use std::arch::asm;
use std::sync::atomic::{AtomicUsize, Ordering};

use sessile::Pool;

// ---- the paths to be looked at ------------------------------------------------------------------

// SAFETY: nothing else in this program has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_with(pool: &Pool<u64>) -> u64 {
    pool.with(|n| {
        *n += 1;
        *n
    })
    .unwrap_or(0)
}

// SAFETY: nothing else in this program has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_with_ref(pool: &Pool<u64>) -> u64 {
    pool.with_ref(|n| *n).unwrap_or(0)
}

// SAFETY: nothing else in this program has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_get(pool: &Pool<u64>) -> u64 {
    pool.get().map_or(0, |mut n| {
        *n += 1;
        *n
    })
}

type Hot = extern "C" fn(&Pool<u64>) -> u64;

const PATHS: [(&str, Hot); 3] =
    [("hot_with", hot_with), ("hot_with_ref", hot_with_ref), ("hot_get", hot_get)];

// ---- stepping -----------------------------------------------------------------------------------

const ROOM: usize = 4096;
static STEPS: [AtomicUsize; ROOM] = [const { AtomicUsize::new(0) }; ROOM];
static TAKEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn step(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: valid: the kernel gives a handler installed with `SA_SIGINFO` the context it
    // interrupted. Aliasing: nobody else has it while the handler runs.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let next = context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if let Some(step) = STEPS.get(TAKEN.fetch_add(1, Ordering::Relaxed)) {
        step.store(next as usize, Ordering::Relaxed);
    }
}

fn listen() {
    // SAFETY: valid: all zeros is a `sigaction` with an empty mask; the handler lives as long as the
    // program, and only writes atomics. Nothing aliases.
    let code = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = step as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut())
    };
    assert_eq!(code, 0, "no handler for the trap");
}

/// Calls `path`, and tells where each instruction from its first on is, relative to that, and
/// somewhat further.
fn single_step(path: Hot, pool: &Pool<u64>) -> Vec<isize> {
    TAKEN.store(0, Ordering::Relaxed);
    // SAFETY: valid: the call is an ordinary one, with its argument and its clobbers declared; what
    // is pushed is popped. While the flag is set, each instruction is followed by a trap, which
    // `step` handles. Aliasing: a shared reference is passed on.
    unsafe {
        asm!(
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "call {path}",
            "pushfq",
            "and qword ptr [rsp], -0x101",
            "popfq",
            path = in(reg) path,
            in("rdi") pool,
            clobber_abi("C"),
        );
    }
    let taken = TAKEN.load(Ordering::Relaxed).min(ROOM);
    STEPS[..taken]
        .iter()
        .map(|step| step.load(Ordering::Relaxed).wrapping_sub(path as usize) as isize)
        .collect()
}

fn main() {
    listen();
    let pool = Pool::from_fn(|_| 1u64);
    for (name, path) in PATHS {
        for _ in 0..3 {
            assert!(path(&pool) > 0, "a hit");
        }
        let steps = single_step(path, &pool);
        println!("{name} {steps:?}");
    }
}

//! The contestants, each behind the same trait.

pub mod channels;
pub mod conversations;
pub mod dashmap;
pub mod deadpool;
pub mod dify;
pub mod id_map;
pub mod interpreters;
pub mod jsonrpsee;
pub mod linked;
pub mod local_pool_handle;
pub mod lockfree_object_pool;
pub mod mutex_map;
pub mod mutex_stream;
pub mod opool;
pub mod ours;
pub mod ours_connected;
pub mod ours_reached;
pub mod park;
pub mod r2d2;
pub mod rayon;
pub mod room;
pub mod short_work;
pub mod std_tls;
pub mod thread_local;

#[path = "../../../tests/support/venv.rs"]
mod venv;

use crate::echo::Ports;

/// Lends the calling thread a number, exclusively.
///
/// The number is the thread's own, except with the pools one checks out from: there it is any that
/// is free.
pub trait Rival: Send + Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    fn new() -> Self;

    /// Runs `body` on the number, which is made now if there is none.
    fn with(&self, body: impl FnOnce(&mut u64));

    /// What a thread keeps for as long as it works.
    type Held;
    fn hold(&self) -> Self::Held;

    /// Ends several at once: all numbers of all threads are gone when it returns.
    fn close(all: Vec<Self>) {
        drop(all);
    }
}

/// Lends the calling thread its own number, shared.
pub trait SharedRival: Send + Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    fn new() -> Self;

    /// Runs `body` on the number, which is made now if there is none.
    fn with_ref(&self, body: impl FnOnce(&u64));
}

/// A thread that runs what it is sent, in order, and that ends when this is dropped.
pub trait Post: Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    fn new() -> Self;

    /// Sends the thread some work, which it runs when it comes to it.
    fn post(&self, work: impl FnOnce() + Send + 'static);
}

/// A thread that answers, and that ends when this is dropped.
pub trait Ask: Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    fn new() -> Self;

    /// Has the thread run some work, and waits for what it returns.
    fn ask(&self, work: impl FnOnce() -> u64 + Send + 'static) -> u64;
}

/// A client of the [echo server](crate::echo), which several threads share.
pub trait Client: Send + Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    /// With one connection, or one for each thread that calls.
    fn connect(to: Ports) -> Self;

    /// Sends a number, and waits until it is back.
    fn echo(&self, number: u64) -> u64;
}

/// For the rivals that need nothing to be held.
macro_rules! holds_nothing {
    () => {
        type Held = ();
        fn hold(&self) {}
    };
}
pub(crate) use holds_nothing;

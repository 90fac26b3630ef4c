//! The contestants, each behind the same trait.

pub mod dashmap;
pub mod deadpool;
pub mod linked;
pub mod lockfree_object_pool;
pub mod mutex_map;
pub mod opool;
pub mod ours;
pub mod r2d2;
pub mod std_tls;
pub mod thread_local;

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

/// For the rivals that need nothing to be held.
macro_rules! holds_nothing {
    () => {
        type Held = ();
        fn hold(&self) {}
    };
}
pub(crate) use holds_nothing;

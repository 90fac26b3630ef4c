//! Pools with less room than there are threads.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use deadpool::unmanaged;
use sessile::Pool;
use tokio::sync::Semaphore;

use super::ours::zero;
use super::r2d2::numbers;

/// Lends a number, one of a few; who finds none waits.
pub trait Room: Send + Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    /// With so many numbers.
    fn new(room: usize) -> Self;

    fn with(&self, body: impl FnOnce(&mut u64));
}

/// Each thread has a number of its own, which another's is closed for.
pub struct MaxSize(Pool<u64>);

impl Room for MaxSize {
    const NAME: &'static str = "sessile `with`, `max_size`";

    fn new(room: usize) -> Self {
        Self(Pool::builder(zero()).max_size(room).build().expect("the options are valid"))
    }

    fn with(&self, body: impl FnOnce(&mut u64)) {
        self.0.with(body).expect("room is made in time");
    }
}

/// The numbers are handed from thread to thread.
pub struct R2d2(r2d2::Pool<super::r2d2::Numbers>);

impl Room for R2d2 {
    const NAME: &'static str = "r2d2 `get`";

    fn new(room: usize) -> Self {
        Self(numbers(room as u32))
    }

    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.get().expect("one is given back in time"));
    }
}

/// The same, by a future, on which the thread waits.
pub struct Deadpool(unmanaged::Pool<u64>);

impl Room for Deadpool {
    const NAME: &'static str = "deadpool unmanaged `get`, awaited by its thread";

    fn new(room: usize) -> Self {
        Self(unmanaged::Pool::from(vec![0; room]))
    }

    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut block_on(self.0.get()).expect("the pool is open"));
    }
}

/// No numbers at all: who may go on makes one. The least that waiting in a line can take.
pub struct Permits(Semaphore);

impl Room for Permits {
    const NAME: &'static str = "`tokio::sync::Semaphore`, awaited by its thread";

    fn new(room: usize) -> Self {
        Self(Semaphore::new(room))
    }

    fn with(&self, body: impl FnOnce(&mut u64)) {
        let _permit = block_on(self.0.acquire()).expect("it is open");
        body(&mut 0);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

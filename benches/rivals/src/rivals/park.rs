//! Nothing but `park` and `unpark`, to and fro: what it costs at least to wake a thread and to be
//! woken by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};

const NOTHING: u32 = 0;
const ASKED: u32 = 1;
const ENOUGH: u32 = 2;

/// A thread that is woken and wakes back. Of use to the thread that made it only.
pub struct PingPong {
    word: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

impl PingPong {
    pub const NAME: &'static str = "`park` and `unpark`, nothing else";

    /// Starts the thread, which calls `first` before anything else.
    #[must_use]
    pub fn start(first: impl FnOnce() + Send + 'static) -> Self {
        let word = Arc::new(AtomicU32::new(NOTHING));
        let (seen, asker) = (Arc::clone(&word), thread::current());
        let thread = thread::spawn(move || {
            first();
            serve(&seen, &asker);
        });
        Self { word, thread: Some(thread) }
    }

    fn thread(&self) -> &Thread {
        self.thread.as_ref().expect("it is taken only on the way out").thread()
    }

    /// Wakes the thread, and sleeps until it has woken the caller.
    #[inline(always)]
    pub fn ping(&self) {
        self.word.store(ASKED, Ordering::Release);
        self.thread().unpark();
        while self.word.load(Ordering::Acquire) != NOTHING {
            thread::park();
        }
    }
}

fn serve(word: &AtomicU32, asker: &Thread) {
    loop {
        match word.load(Ordering::Acquire) {
            ASKED => {
                word.store(NOTHING, Ordering::Release);
                asker.unpark();
            }
            ENOUGH => return,
            _ => thread::park(),
        }
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.word.store(ENOUGH, Ordering::Release);
        self.thread().unpark();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        ended.expect("it is taken only here").expect("it does not panic");
    }
}

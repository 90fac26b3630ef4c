//! A thread at the end of a channel, which calls what comes out: what one writes without a loop.
//!
//! For an answer the caller sends along a channel with room for one, new for each call.

use std::thread;

use super::{Ask, Post};

type Work = Box<dyn FnOnce() + Send>;

/// The way into a channel, and the thread at its other end.
struct Served<S> {
    /// Taken when it is dropped: without a sender the thread's loop ends.
    sender: Option<S>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<S> Served<S> {
    fn by(sender: S, receiver: impl IntoIterator<Item = Work> + Send + 'static) -> Self {
        let thread = thread::spawn(move || receiver.into_iter().for_each(|work| work()));
        Self { sender: Some(sender), thread: Some(thread) }
    }

    fn sender(&self) -> &S {
        self.sender.as_ref().expect("it is taken only on the way out")
    }
}

impl<S> Drop for Served<S> {
    fn drop(&mut self) {
        drop(self.sender.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        ended.expect("it is taken only here").expect("no work panics");
    }
}

macro_rules! channel {
    ($(#[$doc:meta])* $name:ident, $sender:ty, $unbounded:expr, $one:expr, $post:literal, $ask:literal) => {
        $(#[$doc])*
        pub struct $name(Served<$sender>);

        impl $name {
            fn start() -> Self {
                let (sender, receiver) = $unbounded;
                Self(Served::by(sender, receiver))
            }

            #[inline(always)]
            fn send(&self, work: impl FnOnce() + Send + 'static) {
                let sent = self.0.sender().send(Box::new(work));
                assert!(sent.is_ok(), "the thread is there");
            }
        }

        impl Post for $name {
            const NAME: &'static str = $post;

            fn new() -> Self {
                Self::start()
            }

            #[inline(always)]
            fn post(&self, work: impl FnOnce() + Send + 'static) {
                self.send(work);
            }
        }

        impl Ask for $name {
            const NAME: &'static str = $ask;

            fn new() -> Self {
                Self::start()
            }

            #[inline(always)]
            fn ask(&self, work: impl FnOnce() -> u64 + Send + 'static) -> u64 {
                let (answer, answered) = $one;
                self.send(move || answer.send(work()).expect("the caller waits"));
                answered.recv().expect("the thread answers")
            }
        }
    };
}

channel!(
    Crossbeam,
    crossbeam_channel::Sender<Work>,
    crossbeam_channel::unbounded(),
    crossbeam_channel::bounded(1),
    "`crossbeam-channel`, boxed closures",
    "`crossbeam-channel`, `bounded(1)` back"
);
channel!(
    Std,
    std::sync::mpsc::Sender<Work>,
    std::sync::mpsc::channel(),
    std::sync::mpsc::sync_channel(1),
    "`std::sync::mpsc`, boxed closures",
    "`std::sync::mpsc`, `sync_channel(1)` back"
);
channel!(
    Flume,
    flume::Sender<Work>,
    flume::unbounded(),
    flume::bounded(1),
    "`flume`, boxed closures",
    "`flume`, `bounded(1)` back"
);
channel!(
    Kanal,
    kanal::Sender<Work>,
    kanal::unbounded(),
    kanal::bounded(1),
    "`kanal`, boxed closures",
    "`kanal`, `bounded(1)` back"
);

//! A `HashMap` by thread under a `Mutex`. The lock is held while the number is used, for want of a
//! way to lend it out otherwise. Nothing takes out what ended threads left.

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use super::{Rival, holds_nothing};

pub struct ByThread(Mutex<HashMap<ThreadId, u64>>);

impl Rival for ByThread {
    const NAME: &'static str = "`Mutex<HashMap<ThreadId, _>>`";

    fn new() -> Self {
        Self(Mutex::default())
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        let mut numbers = self.0.lock().expect("no body panics");
        body(numbers.entry(thread::current().id()).or_default());
    }

    holds_nothing!();
}

//! A `DashMap` by thread: what one writes first. Nothing takes out what ended threads left.

use std::thread::{self, ThreadId};

use ::dashmap::DashMap;

use super::{Rival, holds_nothing};

pub struct ByThread(DashMap<ThreadId, u64>);

impl Rival for ByThread {
    const NAME: &'static str = "`DashMap<ThreadId, _>`";

    fn new() -> Self {
        Self(DashMap::new())
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        let thread = thread::current().id();
        match self.0.get_mut(&thread) {
            Some(mut number) => body(&mut number),
            None => body(&mut self.0.entry(thread).or_default()),
        }
    }

    holds_nothing!();
}

//! `deadpool`, its unmanaged kind, which does without an executor.

use ::deadpool::unmanaged::Pool;

use super::{Rival, holds_nothing};

pub struct Deadpool(Pool<u64>);

impl Rival for Deadpool {
    const NAME: &'static str = "deadpool unmanaged `try_get`";

    fn new() -> Self {
        Self(Pool::from(vec![0; 4]))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.try_get().expect("there are more than threads"));
    }

    holds_nothing!();
}

//! `lockfree-object-pool`, its linear kind, which its README calls the fastest.

use ::lockfree_object_pool::LinearObjectPool;

use super::{Rival, holds_nothing};

pub struct Linear(LinearObjectPool<u64>);

impl Rival for Linear {
    const NAME: &'static str = "lockfree-object-pool `pull`";

    fn new() -> Self {
        Self(LinearObjectPool::new(|| 0, |_| ()))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.pull());
    }

    holds_nothing!();
}

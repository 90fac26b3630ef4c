//! `opool`: a lock-free queue of free objects.

use ::opool::{Pool, PoolAllocator};

use super::{Rival, holds_nothing};

struct Numbers;

impl PoolAllocator<u64> for Numbers {
    #[inline]
    fn allocate(&self) -> u64 {
        0
    }
}

pub struct Opool(Pool<Numbers, u64>);

impl Rival for Opool {
    const NAME: &'static str = "opool `get`";

    fn new() -> Self {
        Self(Pool::new_prefilled(4, Numbers))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.get());
    }

    holds_nothing!();
}

//! `r2d2`: checked out under a lock, with clock readings for its time-outs.

use std::convert::Infallible;

use ::r2d2::{ManageConnection, Pool};

use super::{Rival, holds_nothing};

pub struct Numbers;

/// So many numbers, without the check on check-out.
pub(crate) fn numbers(count: u32) -> Pool<Numbers> {
    let pool = Pool::builder().max_size(count).test_on_check_out(false);
    pool.build(Numbers).expect("making a number cannot fail")
}

impl ManageConnection for Numbers {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// `get`, without the check on check-out that is on by default.
pub struct R2d2(Pool<Numbers>);

impl Rival for R2d2 {
    const NAME: &'static str = "r2d2 `get`";

    fn new() -> Self {
        Self(numbers(4))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.get().expect("there are more than threads"));
    }

    holds_nothing!();
}

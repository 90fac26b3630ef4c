//! `thread_local::ThreadLocal`: a number per object and thread, kept when the thread ends and handed
//! to a later one.

use std::cell::RefCell;

use ::thread_local::ThreadLocal;

use super::{Rival, SharedRival, holds_nothing};

/// `get_or`, then `RefCell::borrow_mut`.
pub struct GetOr(ThreadLocal<RefCell<u64>>);

impl Rival for GetOr {
    const NAME: &'static str = "`ThreadLocal::get_or` + `RefCell`";

    fn new() -> Self {
        Self(ThreadLocal::new())
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.get_or(RefCell::default).borrow_mut());
    }

    holds_nothing!();
}

impl SharedRival for GetOr {
    const NAME: &'static str = <Self as Rival>::NAME;

    fn new() -> Self {
        <Self as Rival>::new()
    }

    #[inline(always)]
    fn with_ref(&self, body: impl FnOnce(&u64)) {
        body(&self.0.get_or(RefCell::default).borrow());
    }
}

/// `get_or` alone: enough where nobody wants exclusive access.
pub struct GetOrBare(ThreadLocal<u64>);

impl SharedRival for GetOrBare {
    const NAME: &'static str = "`ThreadLocal::get_or`, no `RefCell`";

    fn new() -> Self {
        Self(ThreadLocal::new())
    }

    #[inline(always)]
    fn with_ref(&self, body: impl FnOnce(&u64)) {
        body(self.0.get_or_default());
    }
}

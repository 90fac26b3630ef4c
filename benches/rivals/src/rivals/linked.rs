//! `linked::InstancePerThread`: an instance lives as long as its thread holds a `Ref` to it.

use std::cell::RefCell;

use ::linked::{InstancePerThread, Ref};

use super::{Rival, holds_nothing};

#[::linked::object]
pub struct Number {
    value: RefCell<u64>,
}

impl Number {
    fn new() -> Self {
        ::linked::new!(Self { value: RefCell::new(0) })
    }
}

/// `acquire`, while the thread holds another `Ref`, so that the instance stays.
pub struct Held(InstancePerThread<Number>);

impl Rival for Held {
    const NAME: &'static str = "linked `acquire`, a `Ref` held besides";

    fn new() -> Self {
        Self(InstancePerThread::new(Number::new()))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.acquire().value.borrow_mut());
    }

    type Held = Ref<Number>;
    fn hold(&self) -> Ref<Number> {
        self.0.acquire()
    }
}

/// `acquire` alone: each call makes an instance and drops it.
pub struct NotHeld(InstancePerThread<Number>);

impl Rival for NotHeld {
    const NAME: &'static str = "linked `acquire`, no `Ref` held";

    fn new() -> Self {
        Self(InstancePerThread::new(Number::new()))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.acquire().value.borrow_mut());
    }

    holds_nothing!();
}

//! `thread_local!` of the standard library: statics only, and nobody else can reach them.

use std::cell::{Cell, RefCell};

use super::{Rival, SharedRival, holds_nothing};

/// A number with a destructor, as an instance has one, so that the thread-local has to be made
/// lazily and registered for the thread's exit.
struct Closed(u64);

impl Closed {
    /// Not constant: with a constant value the thread-local would not be lazy.
    fn new() -> Self {
        Self(std::hint::black_box(0))
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        std::hint::black_box(self.0);
    }
}

thread_local! {
    static CELL: Cell<u64> = const { Cell::new(0) };
    static REF_CELL: RefCell<u64> = const { RefCell::new(0) };
    static LAZY: RefCell<Closed> = RefCell::new(Closed::new());
}

/// A constant `Cell`: the number is copied out and back in.
pub struct ConstCell;

impl Rival for ConstCell {
    const NAME: &'static str = "`thread_local!`, const `Cell`";

    fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        CELL.with(|cell| {
            let mut value = cell.get();
            body(&mut value);
            cell.set(value);
        });
    }

    holds_nothing!();
}

impl SharedRival for ConstCell {
    const NAME: &'static str = <Self as Rival>::NAME;

    fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn with_ref(&self, body: impl FnOnce(&u64)) {
        CELL.with(|cell| body(&cell.get()));
    }
}

/// A constant `RefCell`.
pub struct ConstRefCell;

impl Rival for ConstRefCell {
    const NAME: &'static str = "`thread_local!`, const `RefCell`";

    fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        REF_CELL.with(|cell| body(&mut cell.borrow_mut()));
    }

    holds_nothing!();
}

impl SharedRival for ConstRefCell {
    const NAME: &'static str = <Self as Rival>::NAME;

    fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn with_ref(&self, body: impl FnOnce(&u64)) {
        REF_CELL.with(|cell| body(&cell.borrow()));
    }
}

/// A `RefCell` made on first use, of something with a destructor.
pub struct Lazy;

impl Rival for Lazy {
    const NAME: &'static str = "`thread_local!`, lazy `RefCell`, with `Drop`";

    fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        LAZY.with(|cell| body(&mut cell.borrow_mut().0));
    }

    holds_nothing!();
}

//! `sessile` itself, in each of its ways of borrowing.

use std::time::Duration;

use sessile::pool::InstanceEvent;
use sessile::{Manager, Pool, Registry, from_fn};

use super::{Rival, SharedRival, holds_nothing};

pub(crate) fn zero() -> impl Manager<Instance = u64> {
    from_fn(|_| 0)
}

/// With every limit on that costs something while an instance is used. Each is so high that it is
/// never reached: what is measured is the watching, not the closing.
fn limited() -> Pool<u64> {
    let day = Duration::from_secs(24 * 60 * 60);
    Pool::builder(zero())
        .idle_timeout(day)
        .max_lifetime(day)
        .max_uses(u64::MAX / 2)
        .on_event(|_: &InstanceEvent<'_>| {})
        .build()
        .expect("the options are valid")
}

fn close_all(pools: &[&Pool<u64>]) {
    let within = Duration::from_secs(60);
    let report = match pools {
        [one] => one.close(within),
        _ => Registry::global().close_all(within),
    };
    assert!(report.is_clean(), "{report}");
}

/// `Pool::with`, in a pool without limits.
pub struct With(Pool<u64>);

impl Rival for With {
    const NAME: &'static str = "sessile `with`, no limits";

    fn new() -> Self {
        Self(Pool::new(zero()))
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        self.0.with(body).expect("the pool is open");
    }

    holds_nothing!();

    fn close(all: Vec<Self>) {
        close_all(&all.iter().map(|Self(pool)| pool).collect::<Vec<_>>());
    }
}

/// `Pool::with`, in a pool with all limits on.
pub struct WithLimits(Pool<u64>);

impl Rival for WithLimits {
    const NAME: &'static str = "sessile `with`";

    fn new() -> Self {
        Self(limited())
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        self.0.with(body).expect("the pool is open");
    }

    holds_nothing!();

    fn close(all: Vec<Self>) {
        close_all(&all.iter().map(|Self(pool)| pool).collect::<Vec<_>>());
    }
}

/// `Pool::get`, in a pool with all limits on.
pub struct Get(Pool<u64>);

impl Rival for Get {
    const NAME: &'static str = "sessile `get`";

    fn new() -> Self {
        Self(limited())
    }

    #[inline(always)]
    fn with(&self, body: impl FnOnce(&mut u64)) {
        body(&mut self.0.get().expect("the pool is open"));
    }

    holds_nothing!();
}

/// `Pool::with_ref`, in a pool with all limits on.
pub struct WithRef(Pool<u64>);

impl SharedRival for WithRef {
    const NAME: &'static str = "sessile `with_ref`";

    fn new() -> Self {
        Self(limited())
    }

    #[inline(always)]
    fn with_ref(&self, body: impl FnOnce(&u64)) {
        self.0.with_ref(body).expect("the pool is open");
    }
}

/// `Pool::get_ref`, in a pool with all limits on.
pub struct GetRef(Pool<u64>);

impl SharedRival for GetRef {
    const NAME: &'static str = "sessile `get_ref`";

    fn new() -> Self {
        Self(limited())
    }

    #[inline(always)]
    fn with_ref(&self, body: impl FnOnce(&u64)) {
        body(&self.0.get_ref().expect("the pool is open"));
    }
}

//! `monty-pool`: Monty in worker processes, lent out to sessions.

use std::time::{Duration, Instant};

use monty_pool::{Checkout, Pool, PoolConfig, ReplConfig, TurnEvent, on_print_sync};
use monty_types::MontyObject;
use tokio::runtime::{Builder, Runtime};

use super::{CELL, Parts, Session};

/// A session on the only worker of a pool.
///
/// It starts anew by giving the worker back and taking it again; or, if it is `COLD`, with the pool and
/// the worker's process.
pub struct MontyPool<const COLD: bool> {
    // Dropped before the runtime that they run on.
    checkout: Option<Checkout>,
    pool: Option<Pool>,
    runtime: Runtime,
    config: PoolConfig,
}

impl<const COLD: bool> MontyPool<COLD> {
    async fn cells(checkout: &mut Checkout, times: u64) {
        let mut ignore = on_print_sync(|_, _| {});
        for _ in 0..times {
            let event = checkout.feed(CELL, Vec::new(), Vec::new(), false, &mut ignore).await;
            let value = event.expect("the worker lives");
            assert!(matches!(value, TurnEvent::Complete(MontyObject::Int(2))), "{value:?}");
        }
    }
}

impl<const COLD: bool> Session for MontyPool<COLD> {
    const NAME: &'static str =
        if COLD { "`monty-pool`, a new worker" } else { "`monty-pool`, a worker that is there" };

    fn new(parts: &Parts) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let mut config = PoolConfig::subprocess(&parts.monty);
        config.max_processes = 1;
        Self { checkout: None, pool: None, runtime: runtime.expect("there is room"), config }
    }

    fn start(&mut self) -> Duration {
        let Self { checkout, pool, runtime, config } = self;
        runtime.block_on(async {
            if let Some(checkout) = checkout.take() {
                checkout.finish().await.expect("the worker lives");
            }
            if COLD && let Some(pool) = pool.take() {
                pool.close().await;
            }
            let start = async || Pool::new(config.clone()).await.expect("the worker starts");
            if !COLD && pool.is_none() {
                *pool = Some(start().await);
            }
            let begun = Instant::now();
            if COLD {
                *pool = Some(start().await);
            }
            let pool = pool.as_ref().expect("it was made");
            let one = pool.checkout(&ReplConfig::default()).await.expect("the worker is free");
            Self::cells(checkout.insert(one), 1).await;
            begun.elapsed()
        })
    }

    fn cells(&mut self, times: u64) -> Duration {
        let Self { checkout, runtime, .. } = self;
        let checkout = checkout.as_mut().expect("it was started");
        let begun = Instant::now();
        runtime.block_on(Self::cells(checkout, times));
        begun.elapsed()
    }

    fn process(&mut self) -> Option<u32> {
        self.checkout.as_ref().and_then(Checkout::pid)
    }
}

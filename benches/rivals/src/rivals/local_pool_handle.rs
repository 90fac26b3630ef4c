//! tokio's threads for futures that are not `Send`: one of them, awaited by a runtime on the caller's
//! thread.

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::LocalPoolHandle;

use super::Ask;

pub struct SpawnPinned {
    runtime: Runtime,
    pool: LocalPoolHandle,
}

impl Ask for SpawnPinned {
    const NAME: &'static str = "`LocalPoolHandle::spawn_pinned`, awaited";

    fn new() -> Self {
        let runtime =
            Builder::new_current_thread().build().expect("it has no driver that could fail");
        Self { runtime, pool: LocalPoolHandle::new(1) }
    }

    #[inline(always)]
    fn ask(&self, work: impl FnOnce() -> u64 + Send + 'static) -> u64 {
        let spawned = self.pool.spawn_pinned(move || async move { work() });
        self.runtime.block_on(spawned).expect("no work panics")
    }
}

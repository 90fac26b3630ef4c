//! A pool of one thread, and work that is installed in it.

use super::Ask;

pub struct Install(::rayon::ThreadPool);

impl Ask for Install {
    const NAME: &'static str = "`rayon::ThreadPool::install`, one thread";

    fn new() -> Self {
        let pool = ::rayon::ThreadPoolBuilder::new().num_threads(1).build();
        Self(pool.expect("the machine has room for a thread"))
    }

    #[inline(always)]
    fn ask(&self, work: impl FnOnce() -> u64 + Send + 'static) -> u64 {
        self.0.install(work)
    }
}

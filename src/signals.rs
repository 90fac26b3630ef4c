//! SIGINT and SIGTERM close everything first.
//!
//! By default these signals end the process at once: no destructor runs, on any thread. Nothing of
//! this crate may be called from a signal handler, so the handler only wakes an ordinary thread, and
//! that one closes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::registry::Registry;

/// On the first SIGINT or SIGTERM, closes every pool of `registry` as
/// [`close_all`](Registry::close_all) does, waiting no longer than `within`; then lets the signal do
/// what it does by default, which is to end the process. A second signal ends it at once.
///
/// From the call on, for as long as the process lives. The closing runs on a thread of its own,
/// called `sessile-signals`.
///
/// ```no_run
/// use std::time::Duration;
///
/// use sessile::Registry;
///
/// sessile::signals::close_on_termination(Registry::global(), Duration::from_secs(5))?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// If the handlers cannot be installed, or the thread cannot be started.
pub fn close_on_termination(registry: &Registry, within: Duration) -> io::Result<()> {
    // In this order, so that the first signal finds the flag down, and the second finds it raised.
    let second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&second))?;
        flag::register(signal, Arc::clone(&second))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let registry = registry.clone();
    thread::Builder::new().name("sessile-signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = registry.close_all(within);
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

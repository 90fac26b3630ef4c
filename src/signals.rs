//! SIGINT and SIGTERM close everything first.
//!
//! By default these signals end the process at once: no destructor runs, on any thread. Nothing of
//! this crate may be called from a signal handler, so the handler only wakes an ordinary thread, and
//! that one closes.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::contain::contain;
use crate::deadline::Deadline;
use crate::registry::Registry;

/// On the first SIGINT or SIGTERM, closes every pool of `registry` as
/// [`close_all`](Registry::close_all) does, waiting no longer than `within`; then lets the signal do
/// what it does by default, which is to end the process. A second signal ends it at once.
///
/// Workers take no more work then, and do what is queued, or hand it back, as they were
/// [set up](crate::workers::WorkersBuilder::on_close).
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
    let registry = registry.clone();
    on_first_signal(within, move |end| drop(registry.close_all(end.remaining_or_max())))
}

/// [`close_on_termination`], after a shutdown of one's own: on the first signal it calls `shutdown` with
/// the time there is; when that has returned, it closes every pool of `registry` in what is left of it.
///
/// When the time is over, the signal does what it does by default, whether `shutdown` has returned or
/// not. It may end the process itself, with a code of its own. A panic in it is caught, and the pools are
/// closed.
///
/// ```no_run
/// use std::time::Duration;
///
/// use sessile::{Pool, Registry, Workers, from_fn};
///
/// let workers = Workers::builder(Pool::builder(from_fn(|_| 0))).build()?;
/// let stop_serving = || ();
/// let within = Duration::from_secs(5);
/// sessile::signals::close_on_termination_after(Registry::global(), within, move |left| {
///     stop_serving();
///     let _ = workers.shutdown(left / 2);
/// })?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Errors
///
/// As [`close_on_termination`].
///
/// # Threads
///
/// `shutdown` runs on a thread of its own, called `sessile-shutdown`. It may block.
///
/// `main` must not return meanwhile: the process would end with it, and with it these threads. A `main`
/// that leaves its own loop because of `shutdown` waits, by [`thread::park`] or the like, for the signal
/// to end the process; or `shutdown` only tells `main`, waits until that has done its work, and
/// calls `std::process::exit`.
pub fn close_on_termination_after(
    registry: &Registry,
    within: Duration,
    shutdown: impl FnOnce(Duration) + Send + 'static,
) -> io::Result<()> {
    let registry = registry.clone();
    on_first_signal(within, move |end| {
        let (tell, told) = mpsc::channel();
        let body = move || {
            let _ = contain(|| shutdown(end.remaining_or_max()));
            let _ = registry.close_all(end.remaining_or_max());
            let _ = tell.send(());
        };
        // With no thread to be had there is nothing better to do than to let the signal act.
        if thread::Builder::new().name("sessile-shutdown".to_owned()).spawn(body).is_ok() {
            let _ = told.recv_timeout(end.remaining_or_max());
        }
    })
}

fn on_first_signal(
    within: Duration,
    close: impl FnOnce(Deadline) + Send + 'static,
) -> io::Result<()> {
    // In this order, so that the first signal finds the flag down, and the second finds it raised.
    let second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&second))?;
        flag::register(signal, Arc::clone(&second))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("sessile-signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            close(Deadline::after(within));
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

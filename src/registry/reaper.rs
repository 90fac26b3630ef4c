//! The reaper: the thread that ages idle instances and closes the expired.
//!
//! A registry has one as long as some pool of it has an age to keep. It goes by its own timer, and
//! does not depend on anybody looking anything up.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::{Registry, Roster};
use crate::contain::contain;
use crate::fork::PerProcess;

/// So often does the reaper look while the shortest age passes.
const LOOKS: u32 = 8;
const SHORTEST_NAP: Duration = Duration::from_millis(1);
/// For so long the system is not asked again for a thread that it did not have.
const PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    static IS_REAPER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is a reaper, and so not to be held up by foreign code.
pub(crate) fn is_current() -> bool {
    IS_REAPER.get()
}

#[derive(Default)]
pub(super) struct Reaper {
    state: Mutex<State>,
    ring: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// There is no thread.
    #[default]
    Stopped,
    Running,
    /// Running, and the pools have changed since it last looked.
    Rung,
    /// There was no thread to be had, then.
    Failed(Instant),
}

impl Reaper {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a pool to look after: starts the thread, if there is none. Says whether there is one.
    /// Who is told that there is not asks again, and may do so as often as it likes.
    pub(super) fn ensure(self: &Arc<Self>, registry: &Registry) -> io::Result<bool> {
        let mut state = self.state();
        match *state {
            State::Running | State::Rung => return Ok(true),
            State::Failed(at) if at.elapsed() < PAUSE => return Ok(false),
            State::Failed(_) | State::Stopped => {}
        }
        let roster = Arc::downgrade(&registry.0);
        let reaper = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("sessile-reaper".to_owned())
            .spawn(move || reaper.run(&roster));
        *state = match &spawned {
            Ok(_) => State::Running,
            Err(_) => State::Failed(Instant::now()),
        };
        spawned.map(|_| true)
    }

    /// The pools have changed.
    pub(super) fn look_again(&self) {
        let mut state = self.state();
        if *state == State::Running {
            *state = State::Rung;
            self.ring.notify_one();
        }
    }

    fn run(&self, roster: &Weak<PerProcess<Roster>>) {
        IS_REAPER.set(true);
        while let Some(nap) = self.round(roster) {
            let mut state = self.state();
            if *state == State::Running {
                let woken = self.ring.wait_timeout(state, nap);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            *state = State::Running;
        }
    }

    /// Looks at everything once. Says when to look again; `None` if there is nothing to look after,
    /// and the thread is to end.
    fn round(&self, roster: &Weak<PerProcess<Roster>>) -> Option<Duration> {
        let members = roster.upgrade().map(Registry)?.members();
        for member in members.into_iter().filter(|member| member.shortest_age().is_some()) {
            // Runs no foreign code, not even where we are the last to hold the pool; this is for what
            // nobody has thought of.
            let _ = contain(move || member.age());
        }
        let mut state = self.state();
        // Asked under the lock: a pool that is enrolled from here on finds us stopped.
        match roster.upgrade().and_then(|roster| Registry(roster).shortest_age()) {
            Some(shortest) => Some((shortest / LOOKS).max(SHORTEST_NAP)),
            None => {
                *state = State::Stopped;
                None
            }
        }
    }
}

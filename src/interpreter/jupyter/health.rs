//! Whether a gateway answers, and when one that does not is tried again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first pause before a gateway that did not answer is tried again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

#[derive(Default)]
pub(super) struct Health(Mutex<Option<Away>>);

/// A gateway that does not answer.
#[derive(Clone, Copy)]
struct Away {
    since: Instant,
    pause: Duration,
    try_at: Instant,
}

impl Health {
    pub(super) fn answered(&self) {
        *self.lock() = None;
    }

    /// It did not answer. Those who find that out at the same time count as one.
    pub(super) fn failed(&self) {
        let (mut away, now) = (self.lock(), Instant::now());
        *away = match *away {
            None => Some(Away { since: now, pause: PAUSE.0, try_at: now + PAUSE.0 }),
            Some(Away { since, pause, try_at }) if try_at <= now => {
                let pause = (pause * 2).min(PAUSE.1);
                Some(Away { since, pause, try_at: now + pause })
            }
            away => away,
        };
    }

    /// Whether it is not to be tried now.
    pub(super) fn is_away(&self) -> bool {
        self.lock().is_some_and(|away| away.try_at > Instant::now())
    }

    /// Whether it may be tried now. Of those who ask for one that is away, one may, and the others go
    /// elsewhere until that is known.
    pub(super) fn may_try(&self) -> bool {
        let (mut away, now) = (self.lock(), Instant::now());
        match &mut *away {
            None => true,
            Some(away) if away.try_at > now => false,
            Some(away) => {
                away.pause = (away.pause * 2).min(PAUSE.1);
                away.try_at = now + away.pause;
                true
            }
        }
    }

    /// Since when it has not answered, and when it is tried again.
    pub(super) fn away(&self) -> Option<(Duration, Duration)> {
        let away = (*self.lock())?;
        Some((away.since.elapsed(), away.try_at.saturating_duration_since(Instant::now())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Away>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

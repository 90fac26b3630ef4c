//! How long to wait before dialling once more.

use std::time::Duration;

/// Twice as long after each failure. A connection that is lost sooner than it took to wait for it is a
/// failure as well: of a peer that takes connections and hangs up, each would be the first otherwise.
pub(super) struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, failures: 0 }
    }

    /// No connection could be made.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// One was made, has stood for so long, and is lost. What the peer has said meanwhile proves
    /// nothing: it may have been why it hangs up.
    pub(super) fn lost(&mut self, stood: Duration) {
        if stood > self.wait() {
            self.failures = 0;
        } else {
            self.failed();
        }
    }

    /// How long to wait now.
    pub(super) fn wait(&self) -> Duration {
        self.shortest.saturating_mul(1 << self.failures.min(16)).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_starts_anew_with_a_connection_that_proved_nothing_or_never() {
        let mut backoff = Backoff::new(10 * MS, 100 * MS);
        let mut after = |act: &dyn Fn(&mut Backoff)| {
            act(&mut backoff);
            backoff.wait().as_millis()
        };
        assert_eq!(after(&|_| ()), 10);
        assert_eq!(after(&|backoff| backoff.lost(11 * MS)), 10);
        assert_eq!(after(&|backoff| backoff.lost(Duration::ZERO)), 20);
        assert_eq!(after(&|backoff| backoff.failed()), 40);
        assert_eq!(after(&|backoff| backoff.lost(40 * MS)), 80);
        assert_eq!(after(&|backoff| backoff.failed()), 100);
        (0..100).for_each(|_| assert_eq!(after(&|backoff| backoff.failed()), 100));
        assert_eq!(after(&|backoff| backoff.lost(101 * MS)), 10);
    }
}

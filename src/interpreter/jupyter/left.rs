//! Kernels, as they are written down while they are at their gateway; and how those are ended whose
//! process is gone.
//!
//! A lease is written before the gateway is asked to start the kernel, for the id is ours: Kernel
//! Gateways and Jupyter Servers take it from the request, Enterprise Gateways from the environment
//! that is asked for. So there is no time at which a kernel is there and nothing says so. A server
//! that takes no id tells its own in its answer, and only then is it known here: if the process is
//! killed in between, that kernel is for the gateway to cull.
//!
//! No token is written down, and no header. Whoever comes to the same gateway has its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::gateway::{Endpoint, Gateway};
use super::kernel::Kept;
use crate::deadline::Deadline;
use crate::interpreter::lease::{self, Lease, Reclaimed};

const KIND: &str = "kernel";
/// How long one gateway may take to end what was left there. What it does not come to stays written
/// down.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than this no gateway takes to start a kernel that nobody waits for.
const LONGEST_START: Duration = Duration::from_secs(60 * 60);

/// A kernel that may be at its gateway. Unless it is known to have [ended](Self::ended), it is left
/// to whoever comes after this process.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) id: String,
    /// `None`: nothing could be written. Then it is for the gateway to cull.
    lease: Option<(Lease, Left)>,
}

impl Held {
    /// A kernel that the gateway is about to be asked for, until then.
    pub(super) fn new(id: String, at: &Endpoint, until: Deadline) -> Self {
        let wait = until.remaining().unwrap_or(LONGEST_START).min(LONGEST_START);
        let left = Left {
            gateway: at.url.clone(),
            id: id.clone(),
            is_open: at.is_open(),
            starting_until: Some(SystemTime::now() + wait),
            kept: None,
        };
        Self { id, lease: Lease::take(KIND, |_| left).ok() }
    }

    /// One that a process that is gone has left at this gateway, for this key of this service; and how it
    /// is known again. It is ours from here on.
    pub(super) fn take_over(at: &Endpoint, service: &str, key: &str) -> Option<(Self, Kept)> {
        let is_wanted = |left: &Left| {
            let is_it = |kept: &Kept| kept.service == service && kept.key == key;
            left.gateway == at.url && left.kept.as_ref().is_some_and(is_it)
        };
        let (lease, left) =
            lease::take_over(KIND, is_wanted, |left: Left| Lease::take(KIND, |_| left))?;
        let kept = left.kept.clone()?;
        Some((Self { id: left.id.clone(), lease: Some((lease, left)) }, kept))
    }

    /// Should this process be killed, the next one may go on with it.
    pub(super) fn keep(&mut self, kept: Kept) {
        if let Some((lease, left)) = &mut self.lease {
            left.kept = Some(kept);
            let _ = lease.amend(left); // else it is ended by the next process
        }
    }

    /// The gateway has started it, and calls it this.
    pub(super) fn started(&mut self, id: String) {
        self.id = id;
        if let Some((lease, left)) = &mut self.lease {
            left.id.clone_from(&self.id);
            left.starting_until = None;
            let _ = lease.amend(left); // else it stays as it was, which is true but for that
        }
    }

    /// It is there no more, or never was.
    pub(super) fn ended(mut self) {
        drop(self.lease.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((lease, _)) = self.lease.take() {
            lease.leave_behind();
        }
    }
}

/// What is written down of a kernel.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    /// Where it is: scheme, host and port, and the server's base.
    gateway: String,
    id: String,
    /// Whether its gateway was asked without a token, or anything else that is not written down.
    is_open: bool,
    /// While the gateway has not said that it is there: until when it may come to be.
    starting_until: Option<SystemTime>,
    /// How it is known again by who goes on with it.
    #[serde(default)]
    kept: Option<Kept>,
}

impl Left {
    /// Whether it is still for who goes on with it, its owner being gone for so long.
    fn is_kept(&self, gone_for: Duration) -> bool {
        self.kept.as_ref().is_some_and(|kept| gone_for < kept.keep_for)
    }
}

/// One round of ending what was left at one gateway.
struct Visit {
    endpoint: Arc<Endpoint>,
    by: Deadline,
    is_away: bool,
}

impl Visit {
    fn to(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, by: Deadline::after(PATIENCE), is_away: false }
    }

    /// Whether the kernel is no more.
    fn end(&mut self, left: &Left) -> bool {
        if self.is_away || self.by.has_passed() {
            return false;
        }
        match self.endpoint.rest.delete(&left.id, self.by) {
            Ok(true) => true,
            // The request for it may still be on its way, or the gateway at it.
            Ok(false) => left.starting_until.is_none_or(|until| until <= SystemTime::now()),
            Err(error) => {
                self.is_away = error.is_unreachable();
                false
            }
        }
    }
}

/// Ends what processes that are gone have left at this gateway.
pub(super) fn reclaim_at(endpoint: &Arc<Endpoint>) -> Reclaimed {
    let mut visit = Visit::to(Arc::clone(endpoint));
    let is_here =
        |_: &str, gone_for, left: &Left| left.gateway == endpoint.url && !left.is_kept(gone_for);
    lease::reclaim_since(KIND, is_here, |left| visit.end(&left))
}

/// Ends what they have left at gateways that ask nobody for a token. What is at others is kept.
pub(in super::super) fn reclaim() -> Reclaimed {
    let mut visits: HashMap<String, Option<Visit>> = HashMap::new();
    lease::reclaim_since(
        KIND,
        |_, gone_for, left: &Left| !left.is_kept(gone_for),
        |left: Left| {
            if !left.is_open {
                return false;
            }
            let visit = visits.entry(left.gateway.clone()).or_insert_with(|| {
                let endpoint = Endpoint::new(Gateway::new(&left.gateway)).ok()?;
                Some(Visit::to(Arc::new(endpoint)))
            });
            visit.as_mut().is_some_and(|visit| visit.end(&left))
        },
    )
}

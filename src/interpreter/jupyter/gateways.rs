//! Several gateways, and on which of them a kernel is started.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::gateway::{Endpoint, Gateway};
#[cfg(unix)]
use super::left;
#[cfg(unix)]
use crate::interpreter::Reclaimed;
use crate::pool::BuildError;

/// Several gateways, and how kernels are placed on them.
///
/// ```
/// use sessile::interpreter::jupyter::{Gateways, JupyterManager, Placement};
///
/// let gateways = Gateways::new(["http://10.0.0.1:8888", "http://10.0.0.2:8888"]);
/// let kernels = JupyterManager::new(gateways.placement(Placement::Load))?;
/// # Ok::<(), sessile::pool::BuildError>(())
/// ```
///
/// A kernel stays on its gateway for life. If a gateway fails to start one, the next in order is asked.
/// If a gateway is gone for good, so are its kernels: whoever uses one is told that its state is lost, and the one
/// that takes its place is started on another.
///
/// A session whose gateway does not answer is kept, for its state may be whole: see
/// [`give_up_after`](super::JupyterBuilder::give_up_after). New ones go to other gateways meanwhile. One
/// that did not answer is tried again by one start at a time, after pauses that grow from 250 ms to 8 s; if
/// there is no other, a start waits for that, up to
/// [`request_timeout`](super::JupyterBuilder::request_timeout).
#[derive(Clone, Debug)]
pub struct Gateways {
    gateways: Vec<Gateway>,
    placement: Placement,
}

/// On which gateway a kernel is started first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// By its key, as [`Workers`](crate::Workers) have them: the same key comes to the same gateway, in
    /// whichever process, as long as that is there; and if one goes or comes, only the keys that were
    /// or will be there move (rendezvous hashing). Kernels without a key are spread evenly.
    #[default]
    Key,
    /// On the gateway that has the fewest kernels of this manager's.
    Load,
}

impl Gateways {
    /// These gateways, with [`Placement::Key`].
    pub fn new(gateways: impl IntoIterator<Item = impl Into<Gateway>>) -> Self {
        let gateways = gateways.into_iter().map(Into::into).collect();
        Self { gateways, placement: Placement::default() }
    }

    /// How kernels are placed.
    ///
    /// Default: [`Placement::Key`].
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }
}

impl From<Gateway> for Gateways {
    fn from(gateway: Gateway) -> Self {
        Self::new([gateway])
    }
}

impl From<&str> for Gateways {
    fn from(url: &str) -> Self {
        Self::new([url])
    }
}

impl From<String> for Gateways {
    fn from(url: String) -> Self {
        Self::new([url])
    }
}

/// How a gateway is, as [`JupyterManager::status`](super::JupyterManager::status) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStatus {
    /// Scheme, host and port.
    pub gateway: String,
    /// How many kernels of this manager's are there, those counted that are being started.
    pub kernels: usize,
    /// For how long it has not answered. `None`: it has, when it was asked last, or was never asked.
    pub away_for: Option<Duration>,
    /// In what time a new kernel may be tried there again. Until then they go to others.
    pub next_try_in: Option<Duration>,
    /// The ids of kernels that were to be ended and could not be yet: they are tried again in the
    /// background.
    pub ending: Vec<String>,
}

/// Gateways that have been looked into.
pub(super) struct Fleet {
    placement: Placement,
    members: Mutex<Vec<Member>>,
}

struct Member {
    endpoint: Arc<Endpoint>,
    kernels: usize,
}

impl Fleet {
    pub(super) fn new(gateways: Gateways) -> Result<Arc<Self>, BuildError> {
        let Gateways { gateways, placement } = gateways;
        if gateways.is_empty() {
            return Err(BuildError::new(
                "gateways",
                "must name at least one gateway: a kernel needs a place to start",
            ));
        }
        let member = |gateway| {
            let endpoint = Arc::new(Endpoint::new(gateway)?);
            Ok(Member { endpoint, kernels: 0 })
        };
        let members = gateways.into_iter().map(member).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { placement, members: Mutex::new(members) }))
    }

    /// Takes a seat for a kernel with this key, on the best gateway that is not among those `tried`, and
    /// is not known to be away.
    pub(super) fn seat(self: &Arc<Self>, key: &str, tried: &[usize]) -> Option<Seat> {
        let mut members = self.lock();
        let mut order: Vec<usize> =
            (0..members.len()).filter(|place| !tried.contains(place)).collect();
        order.sort_by_cached_key(|&place| {
            let member = &members[place];
            let kernels = match self.placement {
                Placement::Key => 0,
                Placement::Load => member.kernels,
            };
            // Among equals, the key decides: no gateway is always the first.
            (kernels, std::cmp::Reverse(weight(key, &member.endpoint.label)))
        });
        let place = order.into_iter().find(|&at| members[at].endpoint.health().may_try())?;
        let member = &mut members[place];
        member.kernels += 1;
        Some(Seat { endpoint: Arc::clone(&member.endpoint), fleet: Arc::clone(self), place })
    }

    /// A seat at each gateway, for a kernel that may be there already.
    pub(super) fn seats(self: &Arc<Self>) -> impl Iterator<Item = Seat> {
        let places = 0..self.lock().len();
        places.map(|place| {
            let mut members = self.lock();
            members[place].kernels += 1;
            let endpoint = Arc::clone(&members[place].endpoint);
            Seat { endpoint, fleet: Arc::clone(self), place }
        })
    }

    /// In what time one may be tried of those that were not yet. `None`: all were.
    pub(super) fn next_try(&self, tried: &[usize]) -> Option<Duration> {
        let members = self.lock();
        let untried = members.iter().enumerate().filter(|(at, _)| !tried.contains(at));
        let next =
            untried.map(|(_, one)| one.endpoint.health().away().map_or(Duration::ZERO, |a| a.1));
        next.min()
    }

    /// What to say when no gateway is to be tried now.
    pub(super) fn all_are_away(&self) -> String {
        let tell = |member: &Member| {
            let Endpoint { label, .. } = &*member.endpoint;
            let (since, next) = member.endpoint.health().away().unwrap_or_default();
            format!("{label} has not answered for {since:.1?}, and is tried again in {next:.1?}")
        };
        let all: Vec<_> = self.lock().iter().map(tell).collect();
        format!("no gateway answers: {}", all.join("; "))
    }

    pub(super) fn status(&self) -> Vec<GatewayStatus> {
        let tell = |member: &Member| {
            let away = member.endpoint.health().away();
            GatewayStatus {
                gateway: member.endpoint.label.clone(),
                kernels: member.kernels,
                away_for: away.map(|(since, _)| since),
                next_try_in: away.map(|(_, next)| next),
                ending: member.endpoint.endings.ids(),
            }
        };
        self.lock().iter().map(tell).collect()
    }

    /// For each gateway, in the order they were given, how many kernels are there or being started.
    pub(super) fn kernels(&self) -> Vec<(String, usize)> {
        let tell = |member: &Member| (member.endpoint.label.clone(), member.kernels);
        self.lock().iter().map(tell).collect()
    }

    /// Ends what processes that are gone have left at these gateways.
    #[cfg(unix)]
    pub(super) fn reclaim(&self) -> Reclaimed {
        // Not under the lock: it takes as long as gateways do.
        let endpoint = |member: &Member| Arc::clone(&member.endpoint);
        let endpoints: Vec<_> = self.lock().iter().map(endpoint).collect();
        endpoints.iter().map(left::reclaim_at).fold(Reclaimed::default(), Reclaimed::and)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.kernels()).finish()
    }
}

/// A kernel's place on a gateway. It counts there until this is dropped.
pub(super) struct Seat {
    pub(super) endpoint: Arc<Endpoint>,
    fleet: Arc<Fleet>,
    pub(super) place: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.fleet.lock()[self.place].kernels -= 1;
    }
}

/// How much a key is drawn to a gateway: the same in every process, whatever the others are.
fn weight(key: &str, label: &str) -> u64 {
    // FNV-1a over both, with something between; then mixed, so that each bit depends on all.
    let bytes = key.bytes().chain([0xff]).chain(label.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(placement: Placement) -> Arc<Fleet> {
        let urls = ["http://a", "http://b", "http://c", "http://d"];
        Fleet::new(Gateways::new(urls).placement(placement)).unwrap()
    }

    #[test]
    fn keys_keep_to_their_gateway_and_move_only_if_it_goes() {
        let fleet = fleet(Placement::Key);
        let keys: Vec<String> = (0..1000).map(|n| format!("conversation-{n}")).collect();
        let places = |tried: &[usize]| -> Vec<usize> {
            keys.iter().map(|key| fleet.seat(key, tried).unwrap().place).collect()
        };
        let before = places(&[]);
        assert_eq!(before, places(&[]));
        for place in 0..4 {
            let count = before.iter().filter(|at| **at == place).count();
            assert!((200..300).contains(&count), "{count} of 1000 on gateway {place}");
        }
        let without = places(&[2]);
        for (before, without) in before.iter().zip(&without) {
            assert!(*without != 2 && (*before == 2 || before == without));
        }
        // As good as gone.
        fleet.seat(&keys[0], &[0, 1, 3]).unwrap().endpoint.health().failed();
        assert_eq!(places(&[]), without);
        assert!(fleet.seat("only that is left", &[0, 1, 3]).is_none());
        assert!(fleet.all_are_away().contains("http://c has not answered"));
        assert!(fleet.seat("none is left", &[0, 1, 2, 3]).is_none());
        assert_eq!(fleet.kernels().iter().map(|(_, kernels)| kernels).sum::<usize>(), 0);
    }

    #[test]
    fn kernels_go_where_the_fewest_are() {
        let fleet = fleet(Placement::Load);
        let mut seats: Vec<_> = (0..8).map(|n| fleet.seat(&n.to_string(), &[]).unwrap()).collect();
        assert!(fleet.kernels().iter().all(|(_, kernels)| *kernels == 2));
        let freed = seats.pop().unwrap().place;
        assert_eq!(fleet.seat("x", &[]).unwrap().place, freed);
    }
}

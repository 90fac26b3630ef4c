//! Every thread its own session.

mod contain;
mod deadline;
mod error;
mod fence;
mod fork;
mod id;
mod manager;
mod pool;
mod registry;
mod slot;
mod sync;
mod thread;

pub use crate::error::PoolError;
pub use crate::id::{InstanceId, Owner, PoolId};
pub use crate::manager::{CloseReason, Context, Interrupt, Manager};
pub use crate::pool::{BuildError, Builder, Pool, Ref, RefMut};
pub use crate::registry::event::{Event, EventHandler, EventKind};
pub use crate::registry::report::{CloseReport, FailedClose};
pub use crate::registry::snapshot::{InstanceInfo, PoolInfo, Snapshot, State, Status};
pub use crate::registry::{Registry, ShutdownGuard};

//! The threads that handlers run on.

use crate::manager::from_fn;
use crate::pool::Pool;
use crate::session::SessionError;
use crate::session::error::Kind;
use crate::workers::Workers;

/// So many threads, for which so many requests may wait. They have nothing of their own.
pub(super) fn workers(
    name: &str,
    threads: usize,
    queue: usize,
) -> Result<Workers<()>, SessionError> {
    let pool = Pool::builder(from_fn(|_| ())).name(name);
    let workers = Workers::<()>::builder(pool).name(name).threads(threads).queue_capacity(queue);
    workers.build().map_err(|error| Kind::Connect(error.into()).into())
}

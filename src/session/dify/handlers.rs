//! The threads that handlers run on.

use std::io;

use crate::manager::Context;
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
    let pool = Pool::builder(|_: &Context| Ok::<_, io::Error>(())).name(name);
    let workers = Workers::<()>::builder(pool).name(name).threads(threads).queue_capacity(queue);
    workers.build().map_err(|error| Kind::Connect(error.into()).into())
}

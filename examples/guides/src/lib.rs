//! The guides in `docs/`. Their programs are this package's tests.

#[doc = include_str!("../../../docs/pools.md")]
pub mod pools {}

#[doc = include_str!("../../../docs/keyed-sessions.md")]
pub mod keyed_sessions {}

#[doc = include_str!("../../../docs/shutting-down.md")]
pub mod shutting_down {}

#[doc = include_str!("../../../docs/coming-from.md")]
pub mod coming_from {}

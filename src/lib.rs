//! Every thread its own session: made on first use, never shared, always closed.
//!
//! Some things must not be shared between threads: a connection in the middle of a conversation, an
//! interpreter with variables in it, a library handle tied to the thread that opened it. With sessile
//! each thread has its own. A [`Pool`] makes it on first use; it never leaves its thread; and a
//! [`Registry`] knows every live one and sees that each is closed.
//!
//! ```
//! use std::time::Duration;
//!
//! use sessile::{Pool, Registry};
//!
//! // The closure makes an instance, on the thread that is to have it.
//! let logs = Pool::from_fn(|cx| vec![cx.name().to_owned()]);
//!
//! std::thread::scope(|s| {
//!     for job in ["a", "b", "c"] {
//!         let logs = &logs;
//!         s.spawn(move || {
//!             logs.with(|log| log.push(job.to_owned()))?; // this thread's own, made now
//!             assert_eq!(logs.with(|log| log.len())?, 2); // and still its own
//!             Ok::<_, sessile::PoolError>(())
//!         });
//!     }
//! });
//!
//! println!("{}", Registry::global().snapshot());
//! let report = logs.close(Duration::from_secs(5)); // from any thread
//! assert!(report.is_clean(), "{report}");
//! ```
//!
//! # The nouns
//!
//! - [`Pool<T>`](Pool) gives each thread its own `T`: [`with`](Pool::with) for exclusive use,
//!   [`with_ref`](Pool::with_ref) for shared, [`get`](Pool::get) for a guard. A [`PoolBuilder`] sets
//!   limits.
//! - A [`Manager`] makes, checks and closes instances.
//! - A [`Registry`] lists every live instance of every pool: [`snapshot`](Registry::snapshot),
//!   [`close_all`](Registry::close_all), [`evict`](Registry::evict).
//! - An [`EventLoop`] lets other threads reach the one that runs it: posting to its [`Handle`](event_loop::Handle) always
//!   wakes.
//! - [`Workers`] are threads that own instances as their trade; [`keyed`](Workers::keyed) work has an
//!   instance of its own for each key. What was asked of either is a [`JoinHandle`](task::JoinHandle): joined, awaited
//!   or cancelled.
//!
//! # When a thread ends
//!
//! Its instances are closed on it, newest first. `JoinHandle::join` waits for that; the implicit join
//! of [`std::thread::scope`] does not, so afterwards call [`Pool::wait_closed`]. When `main` returns,
//! other threads are not unwound: keep [`Registry::close_on_drop`] there.
//!
//! # Who may do what
//!
//! Only the owner of an instance touches it. Anybody may order it closed; an idle instance that is
//! `Send` is then closed on the spot, any other by its owner as soon as it can.
//! [`docs::threading_model`] is the whole contract.
//!
//! # What may block
//!
//! Nothing but what takes a deadline or has a twin that does, and, under
//! [`max_size`](PoolBuilder::max_size), a use that has to make an instance. What would wait for its own
//! thread is an error at once. A blocking wait never holds a lock that foreign code could want.
//!
//! # What it refuses
//!
//! To hand an instance to another thread; to use one after its thread has begun to exit; to enter one
//! twice. Each is an error, not a panic, or does not compile.
//!
//! # Features
//!
//! - `monty`: Python embedded, in `interpreter::monty`.
//! - `cpython`: CPython as a child process, in `interpreter::cpython`. Unix.
//! - `confine`: a CPython that may run code nobody has read (Linux).
//! - `jupyter`: Jupyter kernels behind a gateway, in `interpreter::jupyter`.
//! - `ws`: a WebSocket session for each thread, in `session::websocket`.
//! - `duplex`: a session that any thread may call, in `session::duplex`. Unix.
//! - `tls`: `wss://` for both, and `https://` for gateways.
//! - `dify`: plugins for Dify, in `session::dify`. Unix.
//! - `signals`: close everything on SIGINT and SIGTERM, in `signals`. Unix.
//! - `core_affinity`: [`Workers`] of which each stays on a processor of its own.
//! - `cli`: the command `sessile`, which is no part of the library; `mcp`: its MCP server.
//!
//! None is on by default. What is marked Unix is empty elsewhere, so that a workspace that turns it on
//! still builds there. In the public API are types of `anyhow` 1 (a manager's errors), `serde` 1, and,
//! with their features, `serde_json` 1 and `rustls` 0.23.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
mod compile_fail;
mod contain;
mod deadline;
mod error;
pub mod event_loop;
mod exclusive;
mod fence;
mod fork;
#[cfg(all(fuzzing, feature = "_session"))]
#[doc(hidden)]
pub mod fuzz;
mod id;
#[cfg(feature = "_interpreter")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "cpython", feature = "jupyter", feature = "monty"))))]
pub mod interpreter;
pub mod loop_thread;
pub mod manager;
pub mod pool;
pub mod registry;
#[cfg(feature = "_session")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "duplex", feature = "ws"))))]
pub mod session;
#[cfg(all(feature = "signals", unix))]
pub mod signals;
mod slot;
mod sync;
#[cfg(unix)]
mod sys;
pub mod task;
mod thread;
mod words;
pub mod workers;

#[doc(inline)]
pub use crate::event_loop::EventLoop;
#[doc(inline)]
pub use crate::loop_thread::LoopThread;
#[doc(inline)]
pub use crate::manager::{CreateContext, Manager, from_fn, try_from_fn};
#[doc(inline)]
pub use crate::pool::{Pool, PoolBuilder, PoolError};
#[doc(inline)]
pub use crate::registry::Registry;
#[doc(inline)]
pub use crate::workers::Workers;

/// The long documents.
pub mod docs {
    #[doc = include_str!("../docs/threading-model.md")]
    pub mod threading_model {}

    #[doc = include_str!("../docs/design.md")]
    pub mod design {}

    // The programs of these four are compiled and run by `examples/guides`, with the crates they need.
    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/pools.md")]
    pub mod pools {}

    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/keyed-sessions.md")]
    pub mod keyed_sessions {}

    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/shutting-down.md")]
    pub mod shutting_down {}

    #[cfg(not(doctest))]
    #[doc = include_str!("../docs/coming-from.md")]
    pub mod coming_from {}

    #[cfg(unix)]
    #[doc = include_str!("../docs/event-loop.md")]
    pub mod event_loop {}

    #[cfg(all(feature = "monty", feature = "cpython", unix))]
    #[doc = include_str!("../docs/interpreters.md")]
    pub mod interpreters {}

    #[cfg(all(feature = "confine", target_os = "linux"))]
    #[doc = include_str!("../docs/security.md")]
    pub mod security {}

    #[cfg(all(feature = "monty", feature = "cpython", feature = "jupyter", unix))]
    #[doc = include_str!("../docs/scaling.md")]
    pub mod scaling {}

    #[cfg(all(feature = "ws", feature = "duplex", unix))]
    #[doc = include_str!("../docs/sessions.md")]
    pub mod sessions {}

    #[cfg(feature = "mcp")]
    #[doc = include_str!("../docs/mcp.md")]
    pub mod mcp {}

    #[cfg(all(feature = "dify", unix))]
    #[doc = include_str!("../docs/dify.md")]
    pub mod dify {}
}

#[cfg(all(doctest, feature = "duplex", unix))]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

//! The plugin protocol of Dify: a plugin that a Dify daemon accepts, and the daemon's side.
//!
//! A [`Plugin`] is declared in code, and runs as the environment says, by the variables of Dify's own
//! SDK ([`Environment`]). Its handlers run on [`Workers`](crate::Workers), and call Dify back by
//! [`Dify`], from any thread, also after they have answered.
//!
//! ```no_run
//! use serde_json::json;
//! use sessile::session::dify::{Endpoint, Environment, HttpResponse, Plugin};
//!
//! let manifest = json!({"version": "0.0.1", "type": "plugin", "author": "me", "name": "hello"});
//! let plugin = Plugin::new(manifest)
//!     .endpoint("GET", "/hello", |request: &mut Endpoint| {
//!         let dify = request.dify(); // may go to other threads
//!         request.respond(HttpResponse::text("hello"))?;
//!         dify.storage_set("seen", b"yes") // after the answer
//!     })
//!     .run(&Environment::from_process()?)?;
//! plugin.wait();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A session of the protocol, one request of the daemon's, ends when its handler has answered *and*
//! nobody holds a [`Dify`] of it any more. The daemon lets go of what is invoked after that without a
//! word, and so such a call is an error at once.
//!
//! [`Daemon`] is the other side, enough to host plugins in tests and in development.

mod daemon;
mod environment;
mod handlers;
mod http;
mod invocations;
mod plugin;
pub(crate) mod wire;

pub use self::daemon::{Daemon, Declarations, Hosted, HttpReply, Invoked, LateInvocations, Reply};
pub use self::environment::{Environment, EnvironmentError};
pub use self::http::{HttpRequest, HttpResponse};
pub use self::invocations::{Dify, Kind};
pub use self::plugin::{Endpoint, Plugin, RunningPlugin, Task, ToolMessage};

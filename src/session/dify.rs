//! The plugin protocol of Dify: a plugin that a Dify daemon accepts, and the daemon's side.
//!
//! A [`Plugin`] is declared in code, and runs as the environment says, by the variables of Dify's own
//! SDK ([`Environment`]). Its handlers run on [`Workers`](crate::Workers), and call Dify back by
//! [`Dify`], from any thread, also after they have answered.
//!
//! ```no_run
//! use sessile::session::dify::{Environment, HttpResponse, Manifest, Plugin};
//!
//! let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1"))
//!     .endpoint("GET", "/hello", |request| {
//!         let dify = request.dify(); // may go to other threads
//!         request.respond(HttpResponse::text("hello"))?;
//!         Ok(dify.storage_set("seen", b"yes")?) // after the answer
//!     })
//!     .run(&Environment::from_process()?)?;
//! plugin.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A session of the protocol, one request of the daemon's, ends when its handler has answered *and*
//! nobody holds a [`Dify`] of it any more. The daemon lets go of what is invoked after that without a
//! word, and so such a call is an error at once.
//!
//! [`Daemon`] is the other side, enough to host plugins in tests and in development.

mod action;
mod daemon;
mod declaration;
mod declare;
mod endpoint;
mod environment;
mod errand;
mod file;
mod handlers;
mod hosted;
mod http;
mod invocations;
mod message;
mod model;
mod model_actions;
mod outgoing;
mod package;
mod plugin;
mod providers;
mod running;
pub(crate) mod wire;

pub use self::action::{ActionError, ActionRequest, ErrorType, SessionContext};
pub use self::daemon::{Daemon, Declarations, LateInvocations};
pub use self::declaration::DeclarationError;
pub use self::declare::{
    Datasource, DatasourceKind, DatasourceProvider, Event, Form, I18n, Manifest, ModelCredential,
    ModelProvider, Parameter, Permission, Setting, Strategy, StrategyProvider, Tool, ToolProvider,
    TriggerProvider,
};
pub use self::endpoint::EndpointRequest;
pub use self::environment::{Environment, EnvironmentError};
pub use self::file::{File, UploadedFile};
pub use self::hosted::{HostedPlugin, HttpReply, Reply, ReverseCall};
pub use self::http::{HttpRequest, HttpResponse};
pub use self::invocations::{Dify, InvokeKind, LlmChunks, Speech};
pub use self::message::{LogStep, RetrieverResource, ToolMessage};
pub use self::model::{
    EmbeddingInput, EmbeddingUsage, Embeddings, FunctionCall, LlmAnswer, LlmAsk, LlmChunk,
    LlmDelta, LlmRequest, LlmUsage, ModelConfig, ModelRequest, MultimodalContent, NodeAnswer,
    PromptMessage, PromptTool, RankedDocument, Ranking, ToolCall, Voice,
};
pub use self::model_actions::ModelActions;
pub use self::package::Package;
pub use self::plugin::Plugin;
pub use self::providers::{
    Browse, Bucket, DatasourceActions, Dispatch, DriveFile, OAuthActions, OAuthCredentials,
    OnlinePage, SelectOption, Subscription, TriggerActions, Workspace,
};
pub use self::running::{PluginError, PluginEvent, RunningPlugin};

//! What a plugin does: which handler a request is for, and the threads that handlers run on.

use std::io;

use super::action::{ActionHandler, ActionRequest, ErrorType, fail};
use super::endpoint::Endpoints;
use super::outgoing::Outlet;
use crate::manager::try_from_fn;
use crate::pool::Pool;
use crate::session::SessionError;
use crate::session::duplex::Request;
use crate::session::error::Kind;
use crate::workers::Workers;

/// Up to so many threads, started when they are needed, for which so many requests may wait. They have
/// nothing of their own.
pub(super) fn workers(
    name: &str,
    threads: usize,
    queue: usize,
) -> Result<Workers<()>, SessionError> {
    let pool = Pool::builder(try_from_fn(|_| Ok::<_, io::Error>(()))).name(name);
    let workers =
        Workers::<()>::builder(pool).name(name).threads(1..=threads.max(1)).queue_capacity(queue);
    workers.build().map_err(|error| Kind::Connect(error.into()).into())
}

/// Handlers by what they are for.
#[derive(Default)]
pub(super) struct Acts {
    pub(super) endpoints: Endpoints,
    actions: Vec<Action>,
}

struct Action {
    /// Its type and action, with a dot between.
    name: String,
    /// Which of the action's fields have to be what.
    of: Vec<(&'static str, String)>,
    /// What an error is that says nothing else.
    ordinary: ErrorType,
    handler: ActionHandler,
}

impl Acts {
    /// Adds a handler for an action whose fields are these. The first that fits is called.
    pub(super) fn add(
        &mut self,
        name: impl Into<String>,
        of: &[(&'static str, &str)],
        ordinary: ErrorType,
        handler: ActionHandler,
    ) {
        let of = of.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.actions.push(Action { name: name.into(), of, ordinary, handler });
    }

    /// On a thread of the workers.
    pub(super) fn act(&self, request: Request, outlet: Outlet) {
        if request.method() == "endpoint.invoke_endpoint" {
            return self.endpoints.handle(request, outlet);
        }
        let request = ActionRequest::new(request, outlet);
        let fits = |action: &&Action| {
            action.name == request.action()
                && action.of.iter().all(|(key, value)| is_called(&request, key, value))
        };
        match self.actions.iter().find(fits) {
            Some(action) => request.handle(&action.handler, &action.ordinary),
            None => {
                let why = self.unhandled(&request);
                fail(request.into_inner(), &why, &ErrorType::Value);
            }
        }
    }

    fn unhandled(&self, request: &ActionRequest) -> anyhow::Error {
        let action = request.action();
        let same: Vec<_> = self.actions.iter().filter(|known| known.name == action).collect();
        let differs = same.iter().flat_map(|known| &known.of);
        let mut differs = differs.filter(|(key, value)| !is_called(request, key, value));
        let names = |key| request.fields().get(key).and_then(|name| name.as_str()).unwrap_or("");
        match differs.next_back() {
            Some((key, _)) => {
                let name = names(key);
                anyhow::anyhow!("{key} `{name}` not found: this plugin has no handler for it")
            }
            None => anyhow::anyhow!("this plugin does not handle `{action}`"),
        }
    }
}

/// The daemon names a provider with its plugin before it.
fn is_called(request: &ActionRequest, key: &str, value: &str) -> bool {
    let name = request.fields().get(key).and_then(|name| name.as_str()).unwrap_or_default();
    let is_provider = key == "provider" || key == "agent_strategy_provider";
    name == value || (is_provider && name.rsplit('/').next() == Some(value))
}

//! The peer's requests.

use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::{Clock, Owner};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::session::duplex::request::{Request, Scope};
use crate::session::duplex::shared::count;
use crate::session::{Payload, RequestId};

/// A request of the peer's.
pub(super) struct Asked {
    pub(super) scope: Weak<Scope>,
    /// Until its end has been kept back for long enough.
    pub(super) held: Option<Clock>,
}

impl Owner {
    pub(super) fn asked(
        &mut self,
        id: RequestId,
        within: Option<u64>,
        method: String,
        params: Option<Payload>,
        meta: Option<Payload>,
    ) {
        count(&self.shared.counts.requests);
        if self.shared.is_choked() {
            // Each is answered, if with an error. Not to read on could leave both sides waiting.
            return self.lost("the peer asks on and on, and reads no answers".to_owned());
        }
        let before = self.asked_as(&id);
        if before.is_some_and(|scope| scope.holds_id()) {
            // It would be answered twice, and nobody could tell which is which.
            return count(&self.shared.counts.malformed);
        }
        let scope = Arc::new(Scope::new(id.clone(), Arc::clone(&self.shared), self.connection));
        let asked = Asked { scope: Arc::downgrade(&scope), held: None };
        let within = within.map(|id| (id, self.waiters.contains_key(&id)));
        let request = Request::new(scope, within, method, params, meta);
        if self.requests.len() >= self.settings.max_requests {
            return request.fail(&super::super::busy());
        }
        self.requests.insert(id, asked);
        let handlers = Rc::clone(&self.handlers);
        if contain(|| (handlers.request)(request)).is_err() {
            count(&self.shared.counts.panics);
        }
    }

    pub(super) fn asked_as(&self, id: &RequestId) -> Option<Arc<Scope>> {
        self.requests.get(id).and_then(|asked| asked.scope.upgrade())
    }

    /// A request is over, on our side.
    pub(in super::super) fn over(&mut self, id: &RequestId, connection: u64) {
        // Unless another has taken its id.
        let is_over = |asked: &Asked| asked.scope.strong_count() == 0;
        if connection == self.connection && self.requests.get(id).is_some_and(is_over) {
            self.requests.remove(id);
        }
    }

    /// The request has been answered, and others may still call back on its behalf: its end is kept
    /// back, but no longer than until then.
    pub(in super::super) fn hold(&mut self, scope: &Weak<Scope>, until: Deadline) {
        // Nobody does any more; or it was never entered, for there were too many.
        let Some(id) = scope.upgrade().map(|scope| scope.id().clone()) else { return };
        if let Some(asked) = self.requests.get_mut(&id)
            && asked.scope.ptr_eq(scope)
        {
            let scope = Weak::clone(scope);
            let end = move |_: &mut Self| scope.upgrade().into_iter().for_each(|scope| scope.end());
            asked.held = Clock::new(&self.local, until, end);
        }
    }
}

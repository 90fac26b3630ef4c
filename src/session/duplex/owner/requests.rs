//! The peer's requests.

use std::sync::{Arc, Weak};

use super::{Clock, Owner, Sending};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::session::duplex::request::{Batch, Request, Scope};
use crate::session::duplex::shared::count;
use crate::session::{Incoming, Malformed, Outgoing, Payload, RemoteError, RequestId};

/// A request of the peer's.
pub(super) struct Asked {
    pub(super) scope: Weak<Scope>,
    /// Until its end has been kept back for long enough.
    pub(super) held: Option<Clock>,
}

/// What came of it.
pub(super) struct Heard {
    pub(super) id: RequestId,
    pub(super) within: Option<u64>,
    pub(super) method: String,
    pub(super) params: Option<Payload>,
    pub(super) meta: Option<Payload>,
}

impl Owner {
    pub(super) fn asked(&mut self, heard: Heard, batch: Option<&Arc<Batch>>) {
        let is_full = self.requests.len() >= self.settings.max_requests;
        let Some(request) = self.enter(heard, batch) else { return };
        match &self.handlers.request {
            _ if self.draining.is_some() => {
                let error = RemoteError::new("this side closes, and takes no more requests");
                request.fail(&error.with_code(RemoteError::SERVER_ERROR));
            }
            _ if is_full => request.fail(&super::super::busy()),
            None => {
                let error = RemoteError::new("there is no such method");
                request.fail(&error.with_code(RemoteError::METHOD_NOT_FOUND));
            }
            Some(handle) => {
                if contain(|| handle(request)).is_err() {
                    count(&self.shared.counts.panics);
                }
            }
        }
    }

    /// A request that was over the limit, and was not kept. It is answered as any other, if requests are
    /// answered here at all.
    pub(super) fn asked_too_much(&mut self, id: RequestId, size: usize, limit: usize) {
        if self.handlers.request.is_none() {
            return;
        }
        let heard = Heard { id, within: None, method: String::new(), params: None, meta: None };
        if let Some(request) = self.enter(heard, None) {
            let error = format!("the message of {size} bytes is over the limit of {limit}");
            request.fail(&RemoteError::new(error).with_code(RemoteError::INVALID_REQUEST));
        }
    }

    /// Takes note of a request. `None`: it cannot be answered.
    fn enter(&mut self, heard: Heard, batch: Option<&Arc<Batch>>) -> Option<Request> {
        let Heard { id, within, method, params, meta } = heard;
        count(&self.shared.counts.requests);
        if self.shared.is_choked() {
            // Each is answered, if with an error. Not to read on could leave both sides waiting.
            self.lost("the peer asks on and on, and reads no answers".to_owned());
            return None;
        }
        let before = self.asked_as(&id);
        if before.is_some_and(|scope| scope.holds_id()) {
            // It would be answered twice, and nobody could tell which is which.
            count(&self.shared.counts.malformed);
            let never = batch.and_then(|batch| batch.answered(None));
            never.into_iter().for_each(|sending| self.send(sending));
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let scope = Arc::new(Scope::new(id.clone(), shared, self.connection, batch.cloned()));
        let asked = Asked { scope: Arc::downgrade(&scope), held: None };
        let within = within.map(|id| (id, self.waiters.contains_key(&id)));
        let request = Request::new(scope, within, method, params, meta);
        self.requests.insert(id, asked);
        Some(request)
    }

    /// Messages that came in one frame, and whose requests are answered in one.
    pub(super) fn batch(&mut self, messages: Vec<Incoming>) {
        let serves = self.handlers.request.is_some();
        let is_answered = |message: &&Incoming| match message {
            Incoming::Request { .. } => true,
            Incoming::Malformed(malformed) => serves && malformed.refusal().is_some(),
            _ => false,
        };
        let requests = messages.iter().filter(is_answered).count();
        let batch = Batch::new(Arc::clone(&self.shared), self.connection, requests);
        for message in messages {
            if self.live.is_none() {
                break; // what one message led to
            }
            self.hear(message, Some(&batch));
        }
    }

    /// Tells the peer what was wrong with a request of its, if it asks for answers here at all: to a
    /// server that writes its log between its answers there is nothing to be said.
    pub(super) fn refuse(&mut self, malformed: &Malformed, batch: Option<&Arc<Batch>>) {
        if self.handlers.request.is_none() || self.shared.is_choked() {
            return;
        }
        let Some((to, error)) = malformed.refusal() else { return };
        let refusal = Outgoing::Failure { to, error: &error };
        let Ok(frame) = self.shared.encode_in_any_case(&refusal) else { return };
        let sending = match batch {
            Some(batch) => batch.answered(Some(frame)),
            None => Some(Sending::new(frame, Some(self.connection)).answering()),
        };
        sending.into_iter().for_each(|sending| self.send(sending));
    }

    /// A request has been answered, and others may still call back on its behalf.
    pub(in super::super) fn answered(&mut self, scope: &Weak<Scope>) {
        let Some(id) = scope.upgrade().map(|scope| scope.id().clone()) else { return };
        if self.requests.get(&id).is_some_and(|asked| asked.scope.ptr_eq(scope)) {
            self.requests.remove(&id);
            self.end_if_drained();
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
            self.end_if_drained();
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

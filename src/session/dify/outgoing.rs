//! What a plugin may say in one frame.

use serde::Serialize;

use crate::session::duplex::Request;
use crate::session::error::Kind;
use crate::session::{Payload, SessionError};

/// What goes around what is said: ids, types, names.
const ENVELOPE: usize = 1 << 10;

/// A daemon kills a local plugin that says more in one line than it may. So it is measured first.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub(super) max_line: usize,
}

impl Outlet {
    pub(super) fn item<T: Serialize + ?Sized>(
        &self,
        request: &Request,
        piece: &T,
    ) -> Result<(), SessionError> {
        let piece = self.fit(piece)?;
        request.item(&piece)
    }

    /// As JSON, if it fits.
    pub(super) fn fit<T: Serialize + ?Sized>(&self, value: &T) -> Result<Payload, SessionError> {
        let payload = Payload::new(value).map_err(Kind::Json)?;
        let (size, limit) = (payload.as_str().len() + ENVELOPE, self.max_line);
        if size > limit {
            return Err(Kind::TooLarge { size, limit }.into());
        }
        Ok(payload)
    }
}

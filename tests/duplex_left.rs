//! What a session leaves behind when it closes. By itself: threads and descriptors are counted.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use peer::pair;
use support::{PATIENCE, poll_until, promptly};

#[test]
fn a_session_that_closes_leaves_callers_waiting_or_threads_behind() {
    promptly("it closes", || {
        let before = peer::left();
        let (session, mut peer, place) = pair(|builder| builder);
        let call = session.invoker().invoke("m", ()).unwrap();
        let told = session.invoker();
        peer.asked();
        told.notify("last words", ()).unwrap();
        assert!(session.close(PATIENCE));
        assert!(call.answer().unwrap_err().is_closed());
        assert!(told.invoke("m", ()).unwrap_err().is_closed());
        assert_eq!(peer.hear().unwrap()["method"], "last words");
        assert!(peer.hear().is_none());
        drop((session, peer, place)); // the invoker lives on: what it keeps is memory
        poll_until("nothing is left", || peer::left() == before);
        assert!(told.call::<u64>("m", &()).unwrap_err().is_closed());
    });
}

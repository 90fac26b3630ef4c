//! Kernels that were to be ended, and could not be: their gateway, or their machine, did not answer.
//!
//! They are tried again by a thread of their gateway's own, which lives while there are any, with pauses
//! that grow. So whoever closes a session waits for nobody who is away, and what was to end does not live
//! on unseen. When this process ends before they do, they are on their leases.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::gateway::{Endpoint, LinkOptions};
use super::left::Held;
use super::wire::{self, Channel, Empty, Frame, Request};
use crate::deadline::Deadline;
use crate::session::websocket::{Goodbye, Heard};

/// The first pause before a kernel is tried again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How long a gateway may take to end one.
const ENDING: Duration = Duration::from_secs(10);
/// How long a kernel may take to answer.
const ASKING: Duration = Duration::from_secs(5);

/// Kernels at one gateway that are to end.
#[derive(Default)]
pub(super) struct Endings {
    kernels: Mutex<Vec<Arc<Ending>>>,
    is_tended: AtomicBool,
}

struct Ending {
    id: String,
    /// `None`: it has ended.
    held: Mutex<Option<Held>>,
    /// Until then it is ended only if it answers: what is out of reach makes its gateway stand still.
    ask_until: Option<Instant>,
}

impl Endings {
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().iter().map(|one| one.id.clone()).collect()
    }

    fn add(&self, held: Held, ask_until: Option<Instant>) {
        let (id, held) = (held.id.clone(), Mutex::new(Some(held)));
        self.lock().push(Arc::new(Ending { id, held, ask_until }));
    }

    fn all(&self) -> Vec<Arc<Ending>> {
        self.lock().clone()
    }

    fn ended(&self, one: &Arc<Ending>) {
        let held = one.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.lock().retain(|other| !Arc::ptr_eq(one, other));
        held.into_iter().for_each(Held::ended);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Ending>>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// Remembers that a kernel is to end, and sees to it in the background.
    pub(super) fn leave(self: &Arc<Self>, held: Held, ask_until: Option<Instant>) {
        self.endings.add(held, ask_until);
        if self.endings.is_tended.swap(true, Ordering::AcqRel) {
            return;
        }
        let endpoint = Arc::clone(self);
        let tend = move || endpoint.tend();
        if thread::Builder::new().name("sessile-endings".to_owned()).spawn(tend).is_err() {
            // Without a thread they are tried when the next kernel is started there.
            self.endings.is_tended.store(false, Ordering::Release);
        }
    }

    fn tend(self: Arc<Self>) {
        let mut pause = PAUSE.0;
        loop {
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
            self.end_those_left(Deadline::NEVER);
            if self.endings.lock().is_empty() {
                self.endings.is_tended.store(false, Ordering::Release);
                // One may have come just before.
                if self.endings.lock().is_empty()
                    || self.endings.is_tended.swap(true, Ordering::AcqRel)
                {
                    return;
                }
                pause = PAUSE.0;
            }
        }
    }

    /// Tries all once; none after the first that the gateway does not answer about.
    pub(super) fn end_those_left(self: &Arc<Self>, by: Deadline) {
        for one in self.endings.all() {
            let asks = one.ask_until.is_some_and(|until| until > Instant::now());
            if asks && !self.answers(&one.id, by.earlier(Deadline::after(ASKING))) {
                continue;
            }
            match self.delete(&one.id, by.earlier(Deadline::after(ENDING))) {
                Ok(_) => self.endings.ended(&one),
                Err(error) if error.is_unreachable() => return,
                Err(_) => {}
            }
        }
    }

    /// Whether a kernel answers on its control channel.
    fn answers(&self, id: &str, by: Deadline) -> bool {
        let session = super::random_uuid();
        let options = LinkOptions {
            json: false,
            max_message_size: 64 << 20,
            keep_alive_interval: ASKING * 2,
            keep_alive_timeout: ASKING * 2,
        };
        let Ok((mut link, framing)) = self.connect(id, &session, options, by) else {
            return false;
        };
        let (client, mut asked, mut ask_at) =
            (super::random_uuid(), 0, Deadline::after(Duration::ZERO));
        let answers = loop {
            if by.has_passed() {
                break false;
            }
            if ask_at.has_passed() {
                asked += 1;
                let request = Request {
                    channel: Channel::Control,
                    id: &format!("{client}_{asked}"),
                    kind: "kernel_info_request",
                    session: &client,
                    content: &Empty {},
                };
                let put = match request.encode(framing) {
                    Frame::Text(text) => link.put(text.as_bytes()),
                    Frame::Binary(bytes) => link.put_binary(&bytes),
                };
                if put.is_err() {
                    break false;
                }
                ask_at = Deadline::after(Duration::from_secs(1));
            }
            let frame = match link.read(by.earlier(ask_at)) {
                Ok(Some(Heard::Text(text))) => Frame::Text(text),
                Ok(Some(Heard::Binary(bytes))) => Frame::Binary(bytes),
                Ok(Some(Heard::Goodbye { .. })) | Err(_) => break false,
                Ok(_) => continue,
            };
            let Ok(message) = wire::decode(framing, &frame) else { continue };
            if message.channel == "control" && message.header.session != session {
                break true;
            }
        };
        link.leave(Goodbye::Normal);
        answers
    }
}

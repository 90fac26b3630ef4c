//! A WebSocket that keeps to a deadline, and knows whether the peer is alive.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::session::error::{Kind, SessionError};
use crate::session::rfc6455::{
    Fault, FrameError, Frames, Goodbye, Message, Patience, Role, Socket, Stream, farewell,
};
use crate::session::{Malformed, Unsupported};
use crate::words::Span;

/// For how long one side of the traffic may keep the other waiting.
const SLICE: Duration = Duration::from_millis(20);
/// How many reads a message may take that was due already. It bounds what is read, not how much.
const LOOKS: u32 = 16;
/// Of what may wait to be written while the peer reads nothing, beside one message.
const SLACK: usize = 1 << 20;

/// So many bytes may come between our goodbye and the peer's: what was under way, and what the peer
/// still writes before it reads on.
const TALKED_ON: u64 = 8 << 20;

pub(crate) struct Link {
    frames: Frames,
    limits: Limits,
    /// When a ping went out that nothing was heard after.
    pinged_at: Option<Instant>,
    pings: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_message_size: usize,
    pub(super) max_frame_size: usize,
    pub(super) messages: Messages,
    /// How long the peer may be silent before it is pinged.
    pub(super) keep_alive_interval: Option<Duration>,
    pub(super) keep_alive_timeout: Duration,
}

/// Of which kind messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    Text,
    /// Ours. The peer's may be either.
    Binary,
    /// As their user says, and both ways.
    Any,
}

/// What was heard.
pub(crate) enum Heard {
    Text(String),
    /// Only where such messages are expected.
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    /// A message over the limit, which was passed over: its size, its first and its last bytes.
    TooLarge(usize, Vec<u8>, Vec<u8>),
    /// Which is answered.
    Ping(Vec<u8>),
    /// Which is answered too, if that can be done at once.
    Goodbye {
        code: u16,
        why: String,
    },
}

impl Link {
    /// Over a stream that has been upgraded; `rest` came with the upgrade.
    pub(super) fn new(stream: Stream, rest: &[u8], limits: &Limits) -> Self {
        let (message, frame) = (limits.max_message_size, limits.max_frame_size);
        Self {
            frames: Frames::new(stream, Role::Client, rest, message, frame),
            limits: *limits,
            pinged_at: None,
            pings: 0,
        }
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        self.frames.stream().tcp().socket()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.frames.stream().tcp().peer_addr()
    }

    /// How many bytes ever came from the peer. Any is a sign of life.
    pub(crate) fn received(&self) -> u64 {
        self.frames.stream().tcp().received
    }

    pub(crate) fn heard_at(&self) -> Instant {
        self.frames.stream().tcp().heard_at
    }

    // ---- writing ------------------------------------------------------------------------------

    /// Takes a message that is to be written by [`flush`](Self::flush), or before the next read.
    ///
    /// One that is too large or no text is refused, and no harm is done.
    pub(crate) fn put(&mut self, frame: &[u8]) -> Result<(), SessionError> {
        if self.limits.messages == Messages::Binary {
            return self.put_binary(frame);
        }
        let Ok(text) = std::str::from_utf8(frame) else {
            return Err(Unsupported::new("it wrote something that is not UTF-8").into());
        };
        self.make_room(frame.len())?;
        self.frames.put_text(text);
        Ok(())
    }

    /// The same, for a message that need not be text.
    pub(crate) fn put_binary(&mut self, frame: &[u8]) -> Result<(), SessionError> {
        self.make_room(frame.len())?;
        self.frames.put_binary(frame);
        Ok(())
    }

    fn make_room(&self, size: usize) -> Result<(), SessionError> {
        let limit = self.limits.max_message_size;
        if size > limit {
            return Err(Kind::TooLarge { size, limit }.into());
        }
        if self.frames.unwritten().saturating_add(size) > limit.saturating_add(SLACK) {
            let why = "the peer has read nothing for too long".to_owned();
            return Err(Kind::Lost { why }.into());
        }
        Ok(())
    }

    /// Writes what there is to write, for a moment at most. Says whether nothing is left.
    pub(crate) fn flush(&mut self, until: Deadline) -> Result<bool, SessionError> {
        let until = until.earlier(Deadline::after(SLICE));
        self.patience(Patience::NONE, Patience::until(until, 1));
        self.flushed()
    }

    /// The same, without waiting at all.
    fn flush_now(&mut self) -> Result<bool, SessionError> {
        self.patience(Patience::NONE, Patience::ONE_LOOK);
        self.flushed()
    }

    fn flushed(&mut self) -> Result<bool, SessionError> {
        match self.frames.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.would_block() => Ok(false),
            Err(error) => Err(self.explain(error)),
        }
    }

    // ---- reading ------------------------------------------------------------------------------

    /// Reads one message; `None` if there is none by then.
    pub(crate) fn read(&mut self, until: Deadline) -> Result<Option<Heard>, SessionError> {
        loop {
            // What the peer does not take, a pong or a refusal, must not keep us from reading.
            let slice = if self.frames.unwritten() > 0 && !self.flush_now()? {
                until.earlier(Deadline::after(SLICE))
            } else {
                until
            };
            self.patience(Patience::until(slice, LOOKS), Patience::ONE_LOOK);
            let before = self.received();
            let heard = self.hear();
            if self.received() != before {
                self.pinged_at = None;
            }
            match heard {
                Ok(heard) => {
                    match &heard {
                        Heard::Ping(of) => {
                            self.frames.put_pong(of);
                            self.flush_now()?;
                        }
                        // It is repeated.
                        Heard::Goodbye { code, .. } => {
                            self.say_goodbye(*code, Deadline::after(Duration::ZERO));
                        }
                        _ => {}
                    }
                    return Ok(Some(heard));
                }
                Err(error) if error.would_block() => {
                    if until.has_passed() {
                        return Ok(None);
                    }
                }
                Err(error) => {
                    // The peer is told what it must not send, if it can be told at once.
                    if let FrameError::Fault(fault) = &error {
                        self.leave(fault.goodbye());
                    }
                    return Err(self.explain(error));
                }
            }
        }
    }

    fn hear(&mut self) -> Result<Heard, FrameError> {
        Ok(match self.frames.read()? {
            Message::Text(text) => Heard::Text(text.to_owned()),
            Message::Binary(_) if self.limits.messages == Messages::Text => {
                return Err(Fault::Binary.into());
            }
            Message::Binary(bytes) => Heard::Binary(bytes.to_vec()),
            // Who has no name for what is answered by it takes it for the end.
            Message::TooLarge { size, .. } if self.limits.messages == Messages::Any => {
                return Err(Fault::TooLarge { size, limit: self.limits.max_message_size }.into());
            }
            Message::TooLarge { size, head, tail } => {
                Heard::TooLarge(size, head.to_vec(), tail.to_vec())
            }
            Message::Ping(of) => Heard::Ping(of.to_vec()),
            Message::Pong(of) => Heard::Pong(of.to_vec()),
            Message::Close { code, reason } => {
                let code = code.unwrap_or(Goodbye::Normal as u16);
                Heard::Goodbye { code, why: farewell(code, reason) }
            }
        })
    }

    fn patience(&mut self, reads: Patience, writes: Patience) {
        let tcp = self.frames.stream_mut().tcp_mut();
        (tcp.reads, tcp.writes) = (reads, writes);
    }

    // ---- signs of life ------------------------------------------------------------------------

    /// Whether the peer is pinged when it is silent.
    pub(super) fn pings(&self) -> bool {
        self.limits.keep_alive_interval.is_some()
    }

    /// When [`tend`](Self::tend) has something to do next.
    pub(crate) fn next_duty(&self) -> Deadline {
        let (since, time) = match (self.pinged_at, self.limits.keep_alive_interval) {
            (Some(at), _) => (at, self.limits.keep_alive_timeout),
            (None, Some(interval)) => (self.heard_at(), interval),
            (None, None) => return Deadline::NEVER,
        };
        since.checked_add(time).map_or(Deadline::NEVER, Deadline::at)
    }

    /// Pings a peer that has been silent for long; gives up one that was pinged and is silent still.
    ///
    /// To be called only after a read that found nothing: the pong may have been waiting.
    pub(crate) fn tend(&mut self) -> Result<(), SessionError> {
        if !self.next_duty().has_passed() {
            return Ok(());
        }
        if self.pinged_at.is_some() {
            let why = format!("no answer to a ping in {}", Span(self.limits.keep_alive_timeout));
            return Err(Kind::Lost { why }.into());
        }
        self.ping().map(drop)
    }

    /// Pings the peer. What is returned comes back in the pong.
    pub(crate) fn ping(&mut self) -> Result<[u8; 8], SessionError> {
        self.pings += 1;
        let mark = self.pings.to_be_bytes();
        self.frames.put_ping(&mark);
        self.flush_now()?;
        self.pinged_at = Some(Instant::now());
        Ok(mark)
    }

    // ---- the end ------------------------------------------------------------------------------

    /// The handshake at the end: says goodbye and waits for the peer's. Not for one that talks on and
    /// on: it may never get to read ours.
    pub(super) fn close(&mut self, until: Deadline, timeout: Duration) -> Result<(), SessionError> {
        self.say_goodbye(Goodbye::Normal as u16, until);
        let mut answered = false;
        let enough = self.received().saturating_add(TALKED_ON);
        loop {
            if self.received() > enough {
                let why = "the peer talked on and did not answer the goodbye".to_owned();
                return Err(Kind::Lost { why }.into());
            }
            // It is the server's to hang up first. One that does not is not waited for.
            let until = if answered { until.earlier(Deadline::after(SLICE)) } else { until };
            self.patience(Patience::until(until, 1), Patience::NONE);
            let why = match self.frames.read() {
                Ok(Message::Close { .. }) => {
                    answered = true;
                    continue;
                }
                // Late answers, events, pings: nobody wants them any more.
                Ok(_) if !until.has_passed() => continue,
                Err(error) if error.would_block() && !until.has_passed() => continue,
                Err(error) if !error.would_block() => self.explain(error),
                Ok(_) | Err(_) => Kind::TimedOut { waited: timeout }.into(),
            };
            return if answered { Ok(()) } else { Err(why) };
        }
    }

    /// Says goodbye, as far as that goes at once.
    pub(crate) fn leave(&mut self, why: Goodbye) {
        self.say_goodbye(why as u16, Deadline::after(Duration::ZERO));
    }

    fn say_goodbye(&mut self, code: u16, until: Deadline) {
        self.patience(Patience::NONE, Patience::until(until, 1));
        // Who cannot be told is left without.
        self.frames.put_close(code);
        let _ = self.frames.flush();
    }

    fn explain(&self, error: FrameError) -> SessionError {
        let kind = match error {
            FrameError::Fault(Fault::TooLarge { size, limit }) => Kind::TooLarge { size, limit },
            FrameError::Fault(fault) => Kind::Malformed(Malformed::new(fault.what())),
            FrameError::HungUp => {
                Kind::Lost { why: "the peer hung up without a goodbye".to_owned() }
            }
            FrameError::Io(error) => Kind::Lost { why: error.to_string() },
        };
        // Whatever comes of a socket that was shut, it is because of that.
        if self.socket().was_shut() { Kind::Closed.into() } else { kind.into() }
    }
}

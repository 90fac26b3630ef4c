//! A WebSocket that keeps to a deadline, and knows whether the peer is alive.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Bytes, Message, Utf8Bytes, WebSocket};

use super::stream::{Patience, Socket, Stream};
use crate::deadline::Deadline;
use crate::session::error::{Kind, SessionError};
use crate::session::{Malformed, Unsupported};

/// For how long one side of the traffic may keep the other waiting.
const SLICE: Duration = Duration::from_millis(20);
/// How many reads a message may take that was due already. It bounds what is read, not how much.
const LOOKS: u32 = 16;
/// Small, since tungstenite clears the whole of it before each read.
const READ_BUFFER: usize = 16 << 10;
const WRITE_BUFFER: usize = 64 << 10;

pub(super) struct Link {
    socket: WebSocket<Stream>,
    /// How long the peer may be silent before it is pinged.
    keep_alive: Option<Duration>,
    pong_timeout: Duration,
    max_message_size: usize,
    /// When a ping went out that nothing was heard after.
    pinged_at: Option<Instant>,
    pings: u64,
    /// Something waits to be written, a pong or a refusal, that nobody waits for.
    unflushed: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_message_size: usize,
    pub(super) max_frame_size: usize,
    pub(super) keep_alive: Option<Duration>,
    pub(super) pong_timeout: Duration,
}

/// What was heard.
pub(super) enum Heard {
    Text(Utf8Bytes),
    Pong(Bytes),
    /// A ping, which is answered.
    Ping,
}

impl Link {
    /// Over a stream that has been upgraded; `rest` came with the upgrade.
    pub(super) fn new(stream: Stream, rest: Vec<u8>, limits: &Limits) -> Self {
        let Limits { max_message_size, max_frame_size, keep_alive, pong_timeout } = *limits;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(max_message_size.saturating_mul(2).saturating_add(1 << 20))
            .max_message_size(Some(max_message_size))
            .max_frame_size(Some(max_frame_size));
        Self {
            socket: WebSocket::from_partially_read(stream, rest, Role::Client, Some(config)),
            keep_alive,
            pong_timeout,
            max_message_size,
            pinged_at: None,
            pings: 0,
            unflushed: false,
        }
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        self.socket.get_ref().tcp().socket()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().tcp().peer_addr()
    }

    /// How many bytes ever came from the peer. Any is a sign of life.
    pub(super) fn received(&self) -> u64 {
        self.socket.get_ref().tcp().received
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.socket.get_ref().tcp().heard_at
    }

    // ---- writing ------------------------------------------------------------------------------

    /// Takes a frame to be written, and writes it as far as it goes at once.
    pub(super) fn put(&mut self, frame: Vec<u8>) -> Result<(), SessionError> {
        if frame.len() > self.max_message_size {
            let (size, limit) = (frame.len(), self.max_message_size);
            return Err(Kind::TooLarge { size, limit }.into());
        }
        let text = Utf8Bytes::try_from(frame)
            .map_err(|_| Unsupported::new("it wrote something that is not UTF-8"))?;
        self.put_message(Message::Text(text))
    }

    fn put_message(&mut self, message: Message) -> Result<(), SessionError> {
        self.patience(Patience::NONE, Patience::ONE_LOOK);
        self.unflushed = true;
        match self.socket.write(message) {
            Ok(()) => Ok(()),
            Err(error) if would_block(&error) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Writes what there is to write, for a moment at most. Says whether nothing is left.
    pub(super) fn flush(&mut self, until: Deadline) -> Result<bool, SessionError> {
        let until = until.earlier(Deadline::after(SLICE));
        self.patience(Patience::NONE, Patience::until(until, 1));
        match self.socket.flush() {
            Ok(()) => self.unflushed = false,
            Err(error) if would_block(&error) => self.unflushed = true,
            Err(error) => return Err(self.explain(error)),
        }
        Ok(!self.unflushed)
    }

    // ---- reading ------------------------------------------------------------------------------

    /// Reads one message; `None` if there is none by then.
    pub(super) fn read(&mut self, until: Deadline) -> Result<Option<Heard>, SessionError> {
        loop {
            let mut slice = until;
            if self.unflushed && !self.flush(Deadline::after(Duration::ZERO))? {
                slice = until.earlier(Deadline::after(SLICE));
            }
            // A pong that the peer does not take must not keep us from reading.
            self.patience(Patience::until(slice, LOOKS), Patience::ONE_LOOK);
            let before = self.received();
            let message = self.socket.read();
            if self.received() != before {
                self.pinged_at = None;
            }
            match message {
                Ok(Message::Text(text)) => return Ok(Some(Heard::Text(text))),
                Ok(Message::Pong(of)) => return Ok(Some(Heard::Pong(of))),
                Ok(Message::Ping(_)) => {
                    self.flush(Deadline::after(Duration::ZERO))?; // the pong, which tungstenite has ready
                    return Ok(Some(Heard::Ping));
                }
                Ok(Message::Close(frame)) => {
                    let _ = self.flush(Deadline::after(Duration::ZERO));
                    return Err(Kind::Lost { why: farewell(frame.as_ref()) }.into());
                }
                Ok(Message::Binary(_) | Message::Frame(_)) => {
                    return Err(Malformed::new("a binary frame").into());
                }
                Err(error) if would_block(&error) => {
                    if until.has_passed() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    fn patience(&mut self, reads: Patience, writes: Patience) {
        let tcp = self.socket.get_mut().tcp_mut();
        (tcp.reads, tcp.writes) = (reads, writes);
    }

    // ---- signs of life ------------------------------------------------------------------------

    /// Whether the peer is pinged when it is silent.
    pub(super) fn pings(&self) -> bool {
        self.keep_alive.is_some()
    }

    /// When [`tend`](Self::tend) has something to do next.
    pub(super) fn next_duty(&self) -> Deadline {
        match (self.pinged_at, self.keep_alive) {
            (Some(at), _) => {
                at.checked_add(self.pong_timeout).map_or(Deadline::NEVER, Deadline::at)
            }
            (None, Some(interval)) => {
                self.heard_at().checked_add(interval).map_or(Deadline::NEVER, Deadline::at)
            }
            (None, None) => Deadline::NEVER,
        }
    }

    /// Pings a peer that has been silent for long; gives up one that was pinged and is silent still.
    ///
    /// To be called only after a read that found nothing: the pong may have been waiting.
    pub(super) fn tend(&mut self) -> Result<(), SessionError> {
        if !self.next_duty().has_passed() {
            return Ok(());
        }
        if self.pinged_at.is_some() {
            let why = format!("no answer to a ping in {:.1?}", self.pong_timeout);
            return Err(Kind::Lost { why }.into());
        }
        self.ping().map(drop)
    }

    /// Pings the peer. What is returned comes back in the pong.
    pub(super) fn ping(&mut self) -> Result<Bytes, SessionError> {
        self.pings += 1;
        let mark = Bytes::copy_from_slice(&self.pings.to_be_bytes());
        self.put_message(Message::Ping(mark.clone()))?;
        self.flush(Deadline::after(Duration::ZERO))?;
        self.pinged_at = Some(Instant::now());
        Ok(mark)
    }

    // ---- the end ------------------------------------------------------------------------------

    /// The handshake at the end: says goodbye and waits for the peer's.
    pub(super) fn close(&mut self, until: Deadline, timeout: Duration) -> Result<(), SessionError> {
        self.farewell(CloseCode::Normal, until);
        let mut answered = false;
        loop {
            // It is the server's to hang up first. One that does not is not waited for.
            let until = if answered { until.earlier(Deadline::after(SLICE)) } else { until };
            self.patience(Patience::until(until, 1), Patience::ONE_LOOK);
            let why = match self.socket.read() {
                Ok(Message::Close(_)) => {
                    answered = true;
                    continue;
                }
                // Late answers, events: nobody wants them any more.
                Ok(_) if !until.has_passed() => continue,
                Err(Error::ConnectionClosed) => return Ok(()),
                Err(error) if would_block(&error) && !until.has_passed() => continue,
                Err(error) if !would_block(&error) => self.explain(error),
                Ok(_) | Err(_) => Kind::TimedOut { waited: timeout }.into(),
            };
            return if answered { Ok(()) } else { Err(why) };
        }
    }

    /// Says goodbye, as far as that goes by then.
    pub(super) fn farewell(&mut self, code: CloseCode, until: Deadline) {
        self.patience(Patience::NONE, Patience::until(until, 1));
        let _ = self.socket.close(Some(CloseFrame { code, reason: Utf8Bytes::default() }));
    }

    fn explain(&self, error: Error) -> SessionError {
        let lost = |why: String| Kind::Lost { why };
        let kind = match error {
            _ if self.socket().was_shut() => Kind::Closed,
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                Kind::TooLarge { size, limit: max_size }
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                lost("the peer hung up without a goodbye".to_owned())
            }
            Error::Protocol(error) => Kind::Malformed(Malformed::new(error)),
            Error::Utf8(_) => Kind::Malformed(Malformed::new("text that is not UTF-8")),
            Error::WriteBufferFull(_) => lost("the peer has read nothing for too long".to_owned()),
            Error::ConnectionClosed | Error::AlreadyClosed => {
                lost("the connection is closed".to_owned())
            }
            Error::Io(error) => lost(error.to_string()),
            error => lost(error.to_string()),
        };
        kind.into()
    }
}

fn would_block(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn farewell(frame: Option<&CloseFrame>) -> String {
    match frame {
        None => "the peer closed it".to_owned(),
        Some(CloseFrame { code, reason }) if reason.is_empty() => {
            format!("the peer closed it ({code})")
        }
        Some(CloseFrame { code, reason }) => {
            format!("the peer closed it ({code}): {}", reason.escape_debug())
        }
    }
}

//! From a name to a TCP connection, all within one deadline. What took too long is `WouldBlock`.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::deadline::Deadline;

/// Looks up addresses by `find`.
///
/// The system's look-up takes no deadline and cannot be stopped. So it has a thread of its own, which
/// ends when the system gives up, if we do before it.
pub(super) fn look_up(
    find: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    deadline: Deadline,
) -> io::Result<Vec<SocketAddr>> {
    let (tell, told) = mpsc::sync_channel(1);
    let look_up = move || {
        let _ = tell.send(find()); // nobody may be waiting any more
    };
    let thread = thread::Builder::new().name("sessile-look-up".to_owned()).spawn(look_up)?;
    let found = match deadline.remaining() {
        Some(left) => told.recv_timeout(left),
        None => told.recv().map_err(Into::into),
    };
    match found {
        Err(mpsc::RecvTimeoutError::Timeout) => Err(io::ErrorKind::WouldBlock.into()),
        // A panic in a resolver is told as any other failure.
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let _ = thread.join();
            Err(io::Error::other("the resolver panicked"))
        }
        Ok(found) => {
            let _ = thread.join();
            found
        }
    }
}

/// Tries one address after the other, each with its share of the time that is left.
pub(super) fn reach(addresses: &[SocketAddr], deadline: Deadline) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let to_try = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let connected = match deadline.remaining() {
            None => TcpStream::connect(address),
            Some(Duration::ZERO) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(left) => {
                let share = (left / to_try).max(Duration::from_millis(1));
                TcpStream::connect_timeout(address, share)
            }
        };
        match connected {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    if last.kind() == io::ErrorKind::TimedOut && deadline.has_passed() {
        last = io::ErrorKind::WouldBlock.into();
    }
    Err(last)
}

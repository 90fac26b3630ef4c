//! Who is let in, and who there is.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::client::Client;
use super::listener::{Accepted, Accepting};
use super::{ServerReport, ServerStats};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::loop_thread::StateHandle;
use crate::registry::Registry;
use crate::session::duplex::owner::Owner;
use crate::session::duplex::transport::{Connect, Framed, Link, LinkOptions};
use crate::session::duplex::{Invoker, Session, SessionBuilder, WhenFull};
use crate::session::{RemoteError, SessionError};
use crate::words::Count;

/// How WebSocket clients are let in. `None`: they are none.
#[cfg(feature = "ws")]
pub(super) type Upgrades = Option<Arc<crate::session::rfc6455::AcceptOptions>>;
#[cfg(not(feature = "ws"))]
pub(super) type Upgrades = Option<Arc<std::convert::Infallible>>;

/// So many clients are told at once that there is no room. Beyond, they are hung up on.
const TOLD_AT_ONCE: usize = 16;
/// So long that may take.
const TELLING: Duration = Duration::from_secs(2);
/// And so long it is waited then for the client to have read it.
const READING: Duration = Duration::from_millis(500);

type Make = dyn Fn(&Client) -> SessionBuilder + Send + Sync;
type OnConnect = dyn Fn(&Client, &Invoker) -> anyhow::Result<()> + Send + Sync;
type OnClose = dyn Fn(&Client, &SessionError) + Send + Sync;

/// What is set once.
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) max_clients: usize,
    pub(super) when_full: WhenFull,
    pub(super) handshake_timeout: Duration,
    pub(super) registry: Registry,
    make: Box<Make>,
    pub(super) on_connect: Option<Arc<OnConnect>>,
    pub(super) on_close: Option<Arc<OnClose>>,
    pub(super) on_error: Box<dyn Fn(&anyhow::Error) + Send + Sync>,
}

impl Settings {
    pub(super) fn new(make: impl Fn(&Client) -> SessionBuilder + Send + Sync + 'static) -> Self {
        Self {
            name: "server".to_owned(),
            max_clients: 1000,
            when_full: WhenFull::Wait,
            handshake_timeout: Duration::from_secs(10),
            registry: Registry::global().clone(),
            make: Box::new(make),
            on_connect: None,
            on_close: None,
            on_error: Box::new(|_| ()),
        }
    }
}

/// What the server's handles, its thread and its clients' threads have in common.
pub(super) struct Common {
    settings: Settings,
    close_timeout: Duration,
    upgrades: Upgrades,
    thread: OnceLock<StateHandle<Accepting>>,
    clients: Mutex<Clients>,
    /// For who waits until there are none.
    changed: Condvar,
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    telling: AtomicUsize,
}

#[derive(Default)]
struct Clients {
    last: u64,
    here: BTreeMap<u64, Entry>,
    /// Nobody is let in any more, and by then all are to be gone.
    closing: Option<Deadline>,
    report: ServerReport,
}

struct Entry {
    client: Client,
    /// `None`: it is being let in.
    session: Option<Session>,
    /// Cut, so that whoever lets it in notices.
    socket: Option<TcpStream>,
}

/// A client's place, which is free again when this is dropped: as the last thing on its session's
/// thread, or where it is not let in.
struct Place {
    common: Arc<Common>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.common.left(self.id);
    }
}

/// Takes a stream that was accepted.
struct Taken(Option<TcpStream>);

impl Connect for Taken {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = self.0.take().context("it has been used already")?;
        stream.set_nonblocking(true)?;
        Ok(Box::new(Framed::<_, TcpStream>::new(stream, None, options)))
    }

    fn blocks(&self) -> bool {
        false
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

impl Common {
    pub(super) fn new(settings: Settings, close_timeout: Duration, upgrades: Upgrades) -> Self {
        Self {
            settings,
            close_timeout,
            upgrades,
            thread: OnceLock::new(),
            clients: Mutex::default(),
            changed: Condvar::new(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            telling: AtomicUsize::new(0),
        }
    }

    pub(super) fn begin(&self, thread: StateHandle<Accepting>) {
        let _ = self.thread.set(thread);
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report_error(&self, error: &anyhow::Error) {
        let _ = contain(|| (self.settings.on_error)(error));
    }

    // ---- letting in ---------------------------------------------------------------------------

    fn is_full(&self) -> bool {
        self.lock().here.len() >= self.settings.max_clients
    }

    /// Whether nobody is to be accepted now.
    pub(super) fn has_to_wait(&self) -> bool {
        self.settings.when_full == WhenFull::Wait && self.is_full()
    }

    /// Sees to a client, on a thread of its own: it may be slow, and the user's code may block.
    pub(super) fn take(self: &Arc<Self>, accepted: Accepted) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let Accepted { stream, peer } = accepted;
        let is_full = self.is_full();
        // Who may have to be cut while it is let in.
        let socket =
            if self.upgrades.is_some() && !is_full { stream.try_clone().ok() } else { None };
        let mut clients = self.lock();
        clients.last += 1;
        let client = Client::new(clients.last, peer);
        if is_full {
            drop(clients);
            return self.refuse(stream, client);
        }
        let id = client.id();
        clients.here.insert(id, Entry { client: client.clone(), session: None, socket });
        drop(clients);
        let place = Place { common: Arc::clone(self), id };
        let (common, named) = (Arc::clone(self), client.clone());
        let lets_in = thread::Builder::new().name("sessile-accept".to_owned()).spawn(move || {
            let let_in = contain(|| common.let_in(stream, client.clone(), place));
            if let Err(error) = let_in.and_then(|let_in| let_in) {
                common.not_let_in(&client, error);
            }
        });
        if let Err(error) = lets_in {
            self.not_let_in(&named, anyhow::Error::new(error).context("there is no thread for it"));
        }
    }

    fn not_let_in(&self, client: &Client, error: anyhow::Error) {
        if self.lock().closing.is_some() {
            return; // it was cut
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.report_error(&error.context(format!("{client} was not let in")));
    }

    fn let_in(
        self: &Arc<Self>,
        stream: TcpStream,
        client: Client,
        place: Place,
    ) -> anyhow::Result<()> {
        #[cfg(feature = "ws")]
        if let Some(options) = &self.upgrades {
            use crate::session::duplex::transport::Agreed;
            let upgraded = options.accept(stream, self.settings.handshake_timeout)?;
            let agreed = Agreed::new(upgraded.stream, upgraded.rest, options.is_binary());
            return self.serve(agreed, client.upgraded(upgraded.request), place);
        }
        self.serve(Taken(Some(stream)), client, place)
    }

    /// Begins the session with a client.
    fn serve(
        self: &Arc<Self>,
        connector: impl Connect,
        client: Client,
        place: Place,
    ) -> anyhow::Result<()> {
        let builder = self.fit(self.make(&client), &client, place);
        let session = builder.start(connector)?;
        let mut clients = self.lock();
        let closing = clients.closing;
        // It says and hears nothing before it can be found here. It may have been closed by now.
        let over = match clients.here.get_mut(&client.id()) {
            Some(entry) => {
                let _ = session.shared.post(Owner::dial);
                if let Some(deadline) = closing {
                    session.thread.begin_close(deadline.remaining().unwrap_or_default());
                }
                let socket = entry.socket.take();
                *entry = Entry { client, session: Some(session), socket: None };
                Ok(socket)
            }
            None => Err(session),
        };
        drop(clients);
        if let Err(session) = over
            && let Some(error) = session.shared.take_no_connection()
        {
            return Err(error);
        }
        Ok(())
    }

    fn make(&self, client: &Client) -> SessionBuilder {
        (self.settings.make)(client)
    }

    /// Has a session be one of the server's.
    fn fit(&self, mut builder: SessionBuilder, client: &Client, place: Place) -> SessionBuilder {
        let settings = &self.settings;
        builder.name.get_or_insert_with(|| format!("{} {client}", settings.name));
        builder.registry.get_or_insert_with(|| settings.registry.clone());
        builder.close_timeout = self.close_timeout;
        builder.settings.drains_on_close = true;
        builder.settings.is_held = true;
        if let Some(greet) = settings.on_connect.clone() {
            let (client, own) = (client.clone(), builder.handlers.connect.take());
            builder = builder.on_connect(move |invoker| {
                greet(&client, invoker)?;
                own.as_ref().map_or(Ok(()), |own| own(invoker))
            });
        }
        if let Some(tell) = settings.on_close.clone() {
            let (client, own) = (client.clone(), builder.handlers.close.take());
            builder = builder.on_close(move |why| {
                let _ = contain(|| own.into_iter().for_each(|own| own(why)));
                tell(&client, why);
            });
        }
        builder.when_over = Some(Box::new(move || drop(place)));
        builder
    }

    // ---- refusing -----------------------------------------------------------------------------

    /// Tells a client that there is no room, on a thread of its own.
    fn refuse(self: &Arc<Self>, stream: TcpStream, client: Client) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let clients = Count(self.settings.max_clients, "client");
        self.report_error(&anyhow::anyhow!(
            "{client} was refused, for there is room for {clients} (`max_clients`)"
        ));
        if self.telling.fetch_add(1, Ordering::SeqCst) >= TOLD_AT_ONCE {
            self.telling.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let common = Arc::clone(self);
        let tells = thread::Builder::new().name("sessile-refuse".to_owned()).spawn(move || {
            let _ = contain(|| common.tell_refused(stream, &client));
            common.telling.fetch_sub(1, Ordering::SeqCst);
        });
        if tells.is_err() {
            self.telling.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn tell_refused(&self, mut stream: TcpStream, client: &Client) -> anyhow::Result<()> {
        const WHY: &str = "there is no room for another client; try again later";
        #[cfg(feature = "ws")]
        if let Some(options) = &self.upgrades {
            let _ = options.refusing(503, WHY).accept(stream, TELLING); // an error by its nature
            return Ok(());
        }
        let builder = self.make(client);
        let (mut frame, mut bytes) = (Vec::new(), Vec::new());
        let error = RemoteError::new(WHY).with_code(RemoteError::SERVER_ERROR);
        builder.protocol.encode_refusal(&error, &mut frame)?;
        builder.settings.link.framing.make().encode(&frame, &mut bytes);
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(TELLING))?;
        stream.write_all(&bytes)?;
        // A close that throws away what the client still sends would take the words with it.
        stream.shutdown(Shutdown::Write)?;
        let deadline = Deadline::after(READING);
        while let Some(left) = deadline.remaining().filter(|left| !left.is_zero()) {
            stream.set_read_timeout(Some(left))?;
            if !matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                break;
            }
        }
        Ok(())
    }

    // ---- who there is -------------------------------------------------------------------------

    pub(super) fn clients(&self) -> Vec<Client> {
        let clients = self.lock();
        let here = clients.here.values().filter(|entry| entry.session.is_some());
        here.map(|entry| entry.client.clone()).collect()
    }

    pub(super) fn invoker(&self, client: &Client) -> Option<Invoker> {
        self.lock().here.get(&client.id())?.session.as_ref().map(Session::invoker)
    }

    pub(super) fn disconnect(&self, client: &Client, within: Duration) -> bool {
        self.lock().here.get(&client.id()).is_some_and(|entry| {
            entry.end(within);
            true
        })
    }

    pub(super) fn stats(&self) -> ServerStats {
        ServerStats {
            clients: self.lock().here.len() as u64,
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().here.is_empty()
    }

    pub(super) fn wait_empty(&self, deadline: Deadline) -> bool {
        let mut clients = self.lock();
        while !clients.here.is_empty() {
            match deadline.wait(&self.changed, clients) {
                Ok(woken) => clients = woken,
                Err(_) => return false,
            }
        }
        true
    }

    /// Nobody is let in any more, and who is here is answered and left, within this time.
    pub(super) fn begin_close(&self, within: Duration) {
        let mut clients = self.lock();
        let deadline = Deadline::after(within);
        let sooner = clients.closing.map_or(deadline, |closing| closing.earlier(deadline));
        clients.closing = Some(sooner);
        clients.here.values().for_each(|entry| entry.end(within));
    }

    /// Who was left so far, those who are here still among them.
    pub(super) fn report(&self) -> ServerReport {
        let clients = self.lock();
        let mut report = clients.report.clone();
        report.left.extend(clients.here.values().map(|entry| entry.client.clone()));
        report
    }

    /// A client is gone, and so is its session, all but its thread, which may be this.
    fn left(&self, id: u64) {
        let mut clients = self.lock();
        let Some(Entry { client, session, .. }) = clients.here.remove(&id) else { return };
        if clients.closing.is_some()
            && let Some(session) = &session
        {
            match session.shared.cut_off.load(Ordering::Relaxed) {
                0 => clients.report.drained += 1,
                _ => clients.report.left.push(client.clone()),
            }
        }
        drop(clients);
        self.changed.notify_all();
        if let Some(error) =
            session.as_ref().and_then(|session| session.shared.take_no_connection())
        {
            self.not_let_in(&client, error);
        }
        if let Some(thread) = self.thread.get() {
            let _ = thread.post(Accepting::one_is_gone);
        }
        drop(session); // on its own thread it waits for nothing
    }
}

impl Entry {
    fn end(&self, within: Duration) {
        if let Some(session) = &self.session {
            session.thread.begin_close(within);
        } else if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

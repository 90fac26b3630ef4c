//! Which sessions there are, by their handles, and what has become of those that are gone.
//!
//! A handle is the key of the workers' instance, and nobody guesses it. An instance is made only for a
//! session that is to have a new one: were one made anew behind a model's back, the model would find its
//! variables gone without a word.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use data_encoding::BASE32_DNSSEC;
use lru::LruCache;
use sessile::interpreter::BoxInterpreter;
use sessile::manager::{CloseReason, InterruptHandle};
use sessile::{CreateContext, Manager};

use crate::engine::AnyManager;

/// How many handles of sessions that are gone are remembered, to say why.
const REMEMBERED: usize = 10_000;

/// Who has made a session: one connection, or nobody that is seen twice.
pub(super) type Client = u64;

/// What a worker keeps for a session.
pub(super) struct Held {
    pub(super) python: BoxInterpreter,
    session: String,
}

/// What the table says of a session.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) session: String,
    pub(super) age: Duration,
    pub(super) idle: Duration,
    pub(super) calls: u64,
    pub(super) is_running: bool,
}

struct Entry {
    client: Client,
    made: Instant,
    used: Instant,
    calls: u64,
    running: usize,
    has_instance: bool,
}

struct Sessions {
    live: HashMap<String, Entry>,
    /// And why.
    gone: LruCache<String, String>,
}

pub(super) struct Table {
    sessions: Mutex<Sessions>,
    most: usize,
    idle_timeout: Option<Duration>,
}

impl Table {
    pub(super) fn new(most: usize, idle_timeout: Option<Duration>) -> Arc<Self> {
        let remembered = NonZeroUsize::new(REMEMBERED).expect("it is not zero");
        let sessions = Sessions { live: HashMap::new(), gone: LruCache::new(remembered) };
        Arc::new(Self { sessions: Mutex::new(sessions), most, idle_timeout })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session. It may take the place of the one that was used least recently, which is told: its
    /// instance is to be closed.
    pub(super) fn open(&self, client: Client) -> Result<(String, Option<String>), String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            format!("no handle can be made, for the system gives no random numbers: {error}")
        })?;
        let session = format!("s_{}", BASE32_DNSSEC.encode(&bytes));
        let mut sessions = self.sessions();
        let mut out = None;
        if sessions.live.len() >= self.most {
            let idle = sessions.live.iter().filter(|(_, entry)| entry.running == 0);
            let oldest =
                idle.min_by_key(|(_, entry)| entry.used).map(|(session, _)| session.clone());
            let Some(oldest) = oldest else {
                let most = self.most;
                return Err(format!(
                    "no session can be made: there are {most}, as many as there may be, and all are \
                     running code; try again later"
                ));
            };
            sessions.live.remove(&oldest);
            let why = format!("it made room for another: no more than {} are kept", self.most);
            sessions.gone.put(oldest.clone(), why);
            out = Some(oldest);
        }
        let now = Instant::now();
        let (calls, running, has_instance) = (0, 0, false);
        let entry = Entry { client, made: now, used: now, calls, running, has_instance };
        sessions.live.insert(session.clone(), entry);
        Ok((session, out))
    }

    /// Notes that a call for this session begins, until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, session: &str) -> Result<Call, String> {
        let mut sessions = self.sessions();
        let Some(entry) = sessions.live.get_mut(session) else {
            return Err(match sessions.gone.get(session) {
                Some(why) => format!(
                    "session {session} is gone, and its variables with it: {why}. Leave `session` out of \
                     `run_python` to begin a new one"
                ),
                None => format!(
                    "there is no session {:?}. Leave `session` out of `run_python` to begin one; its \
                     answer says what to pass",
                    session.chars().take(64).collect::<String>()
                ),
            });
        };
        entry.running += 1;
        entry.calls += 1;
        Ok(Call { table: Arc::clone(self), session: session.to_owned() })
    }

    /// Says whether a handle is one of a session that lives.
    pub(super) fn forget(&self, session: &str, why: &str) -> bool {
        let mut sessions = self.sessions();
        let found = sessions.live.remove(session).is_some();
        if found {
            sessions.gone.put(session.to_owned(), why.to_owned());
        }
        found
    }

    /// The sessions that this client has made, oldest first, and how many there are of others.
    pub(super) fn list(&self, client: Client) -> (Vec<Told>, usize) {
        let sessions = self.sessions();
        let own = sessions.live.iter().filter(|(_, entry)| entry.client == client);
        let mut told: Vec<_> = own
            .map(|(session, entry)| Told {
                session: session.clone(),
                age: entry.made.elapsed(),
                idle: entry.used.elapsed(),
                calls: entry.calls,
                is_running: entry.running > 0,
            })
            .collect();
        told.sort_by_key(|told| std::cmp::Reverse(told.age));
        let others = sessions.live.len() - told.len();
        (told, others)
    }

    fn may_create(&self, session: &str) -> anyhow::Result<()> {
        match self.sessions().live.get(session) {
            Some(entry) if !entry.has_instance => Ok(()),
            _ => bail!("the session was closed meanwhile"),
        }
    }

    fn created(&self, session: &str) {
        if let Some(entry) = self.sessions().live.get_mut(session) {
            entry.has_instance = true;
        }
    }

    fn closed(&self, session: &str, reason: CloseReason) {
        use CloseReason::{Broken, Invalid, Poisoned};
        if let Broken | Invalid | Poisoned = reason {
            // Whoever ran its last cell was told so. The next call begins anew.
            if let Some(entry) = self.sessions().live.get_mut(session) {
                entry.has_instance = false;
            }
            return;
        }
        let why = match (reason, self.idle_timeout) {
            (CloseReason::IdleTimeout, Some(limit)) => {
                format!("nobody used it for {} s", limit.as_secs_f64())
            }
            (CloseReason::PoolClosed, _) => "the server is shutting down".to_owned(),
            _ => "somebody at the server closed it".to_owned(),
        };
        self.forget(session, &why);
    }
}

/// A call for a session, while it goes on.
pub(super) struct Call {
    table: Arc<Table>,
    session: String,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(entry) = self.table.sessions().live.get_mut(&self.session) {
            entry.running -= 1;
            entry.used = Instant::now();
        }
    }
}

/// The engine's manager, which tells the table of what it makes and closes.
pub(super) struct Tracking {
    pub(super) manager: AnyManager,
    pub(super) table: Arc<Table>,
}

impl Manager for Tracking {
    type Instance = Held;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<Held> {
        let session = cx.key().unwrap_or_default().to_owned();
        self.table.may_create(&session)?;
        let python = self.manager.create(cx)?;
        self.table.created(&session);
        Ok(Held { python, session })
    }

    fn has_broken(&self, held: &mut Held) -> bool {
        self.manager.has_broken(&mut held.python)
    }

    fn can_break(&self) -> bool {
        self.manager.can_break()
    }

    fn is_valid(&self, held: &mut Held) -> anyhow::Result<()> {
        self.manager.is_valid(&mut held.python)
    }

    fn rescue(&self, held: &mut Held) -> bool {
        self.manager.rescue(&mut held.python)
    }

    fn describe(&self, held: &Held) -> Option<String> {
        self.manager.describe(&held.python)
    }

    fn interrupt(&self, held: &Held) -> Option<InterruptHandle> {
        self.manager.interrupt(&held.python)
    }

    fn close(&self, held: Held, reason: CloseReason) -> anyhow::Result<()> {
        self.table.closed(&held.session, reason);
        self.manager.close(held.python, reason)
    }
}

//! Work that goes on when the HTTP client of an endpoint has left.
//!
//! Dify's daemon drops the session of an HTTP request when its client leaves, whatever the plugin still
//! has to do for it. So the plugin becomes a client of its own: it posts to the URL that the request came
//! to, with a token that nobody else knows, and goes on in the session that this begins. Its client is the
//! plugin itself, which stays.
//!
//! The first session is held until the second has begun. If it does not begin, the work is done in the
//! first, for as long as its client waits: it is done once, and it is never lost.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::invocations::Dify;
use crate::contain::contain;

/// The header with the token.
pub(super) const TOKEN: &str = "sessile-errand";
/// Where the HTTP request came to, as the daemon or the proxy before it says.
pub(super) const URL: &str = "dify-hook-url";
/// How long the plugin waits for itself. Dify's proxy has the same limit, and its daemon a shorter one.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long it waits to be let in; the answer begins when the work does.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce(Dify) -> anyhow::Result<()> + Send>;

/// What waits for its session, by its token; with a hold on the session that it comes from.
#[derive(Default)]
pub(super) struct Errands {
    waiting: Mutex<HashMap<String, (Work, Dify)>>,
}

impl Errands {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, (Work, Dify)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it done in a session of its own, that is asked for here.
    pub(super) fn send(
        self: &Arc<Self>,
        url: &str,
        from: Dify,
        work: impl FnOnce(Dify) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        // Of keys that the system has given by chance: nobody guesses it.
        let token = [(); 2].map(|()| format!("{:016x}", RandomState::new().hash_one(url))).concat();
        let (errands, url, known) = (Arc::clone(self), url.to_owned(), token.clone());
        self.waiting().insert(token.clone(), (Box::new(work), from));
        let posts = thread::Builder::new().name("dify-errand".to_owned()).spawn(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder()
                .timeout_connect(Some(TAKEN_WITHIN))
                .timeout_recv_response(Some(TAKEN_WITHIN))
                .timeout_recv_body(Some(LONGEST))
                .build()
                .into();
            let posted = agent.post(&url).header(TOKEN, &known).send_empty();
            let heard = posted.map(|mut response| response.body_mut().read_to_vec().map(drop));
            // It was taken, and is done; or nobody has come for it.
            if let Some((work, dify)) = errands.take(&known) {
                let why = match heard {
                    Ok(_) => "it was answered by somebody else".to_owned(),
                    Err(error) => error.to_string(),
                };
                let told = format!("`{url}` does not lead back to this plugin: {why}");
                let _ = dify.log("WARNING", &told);
                run(work, dify);
            }
        });
        if let Err(error) = posts {
            self.waiting().remove(&token);
            return Err(error).context("no thread for what goes on");
        }
        Ok(())
    }

    /// Takes what waits for this session. The one that it comes from is let go when this is dropped.
    pub(super) fn take(&self, token: &str) -> Option<(Work, Dify)> {
        self.waiting().remove(token)
    }
}

/// Does it. An error goes to the log of Dify's daemon, for nobody else waits for it.
pub(super) fn run(work: Work, dify: Dify) {
    let log = dify.clone();
    if let Err(error) = contain(|| work(dify)).and_then(|outcome| outcome) {
        let _ = log.log("ERROR", &format!("what went on after the answer has failed: {error:#}"));
    }
}

//! What a cell puts out, told as progress while it runs.

use std::time::Duration;

use rmcp::model::ProgressNotificationParam;
use rmcp::service::{RequestContext, RoleServer};
use sessile::interpreter::Output;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Between two messages: what comes meanwhile is told together.
const PAUSE: Duration = Duration::from_millis(50);

/// How much one message says at most.
const LONGEST: usize = 4_000;

pub(super) struct Progress {
    // What has not been told is bounded: a cell shows no more than it may put out.
    tell: UnboundedSender<Output>,
    telling: JoinHandle<()>,
}

impl Progress {
    /// `None` if the caller has not asked for it.
    pub(super) fn start(cx: &RequestContext<RoleServer>) -> Option<Self> {
        let token = cx.meta.get_progress_token()?;
        let peer = cx.peer.clone();
        let (tell, mut told) = unbounded_channel();
        let telling = tokio::spawn(async move {
            let mut count = 0.0;
            while let Some(text) = next(&mut told).await {
                count += 1.0;
                let progress =
                    ProgressNotificationParam::new(token.clone(), count).with_message(text);
                if peer.notify_progress(progress).await.is_err() {
                    return; // nobody is there
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Some(Self { tell, telling })
    }

    pub(super) fn teller(&self) -> UnboundedSender<Output> {
        self.tell.clone()
    }

    /// Has told all of it: the cell has ended.
    pub(super) async fn finish(self) {
        drop(self.tell);
        let _ = self.telling.await;
    }
}

/// All that has come; `None` if there is no more.
async fn next(told: &mut UnboundedReceiver<Output>) -> Option<String> {
    let mut text = String::new();
    let mut piece = Some(told.recv().await?);
    while let Some(output) = piece {
        match output {
            Output::Stdout { text: more } | Output::Stderr { text: more } => text.push_str(&more),
            Output::Display { data } => {
                let plain = data.get("text/plain").and_then(|text| text.as_str());
                text.push_str(plain.unwrap_or("[something is shown]"));
                text.push('\n');
            }
            _ => {}
        }
        piece = told.try_recv().ok();
    }
    // The last of it: who follows a long output wants to know where it is.
    if text.len() > LONGEST {
        let mut from = text.len() - LONGEST;
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text = format!("[...]{}", &text[from..]);
    }
    Some(text)
}

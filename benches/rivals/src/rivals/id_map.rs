//! `tokio-tungstenite`, and a map from ids to those who wait, made by hand: a runtime on a thread of
//! its own reads and writes; callers block.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::Client;
use super::ours_connected::url;
use crate::echo::{Ports, answer, ask};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<u64>>>>;

pub struct IdMap {
    next_id: AtomicU64,
    waiting: Waiting,
    /// Taken when it is dropped: without it the runtime's thread ends.
    to_write: Option<mpsc::UnboundedSender<Message>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Client for IdMap {
    const NAME: &'static str = "`tokio-tungstenite`, id map by hand";

    fn connect(to: Ports) -> Self {
        let (to_write, out) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        let waits = Arc::clone(&waiting);
        let (tell, connected) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.expect("there is a poller").block_on(async {
                let (socket, _) = connect_async(url(to)).await.expect("the server listens");
                tell.send(()).expect("somebody waits");
                let (writer, reader) = socket.split();
                tokio::select! {
                    () = write(writer, out) => {}
                    () = read(reader, waits) => {}
                }
            });
        });
        connected.blocking_recv().expect("it connects");
        let (to_write, thread) = (Some(to_write), Some(thread));
        Self { next_id: AtomicU64::new(0), waiting, to_write, thread }
    }

    fn echo(&self, number: u64) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().expect("nobody panics").insert(id, tell);
        let to_write = self.to_write.as_ref().expect("it is taken only on the way out");
        to_write.send(Message::text(ask(id, number))).expect("the runtime is there");
        told.blocking_recv().expect("it answers")
    }
}

/// Writes in one go what is there.
async fn write(mut to: SplitSink<Socket, Message>, mut out: mpsc::UnboundedReceiver<Message>) {
    while let Some(first) = out.recv().await {
        to.feed(first).await.expect("the server reads");
        while let Ok(next) = out.try_recv() {
            to.feed(next).await.expect("the server reads");
        }
        to.flush().await.expect("the server reads");
    }
}

async fn read(mut from: SplitStream<Socket>, waiting: Waiting) {
    while let Some(Ok(message)) = from.next().await {
        let (id, number) = answer(message.to_text().expect("it is text"));
        let waits = waiting.lock().expect("nobody panics").remove(&id);
        let _ = waits.expect("it was asked for").send(number);
    }
}

impl Drop for IdMap {
    fn drop(&mut self) {
        drop(self.to_write.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        ended.expect("it is taken only here").expect("the server has answered");
    }
}

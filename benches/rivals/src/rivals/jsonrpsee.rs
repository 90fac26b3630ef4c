//! `jsonrpsee`'s WebSocket client, on a runtime with a thread of its own; callers block.

use std::thread;

use jsonrpsee_core::client::ClientT;
use jsonrpsee_core::rpc_params;
use jsonrpsee_ws_client::{WsClient, WsClientBuilder};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::Client;
use super::ours_connected::url;
use crate::echo::{ECHO, Ports};

pub struct Jsonrpsee {
    client: WsClient,
    runtime: Handle,
    /// Taken when it is dropped: without it the runtime's thread ends.
    stays: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Client for Jsonrpsee {
    const NAME: &'static str = "`jsonrpsee` WebSocket client";

    fn connect(to: Ports) -> Self {
        let (stays, gone) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("there is a poller").block_on(async {
                let client = WsClientBuilder::default().build(url(to)).await;
                let client = client.expect("the server listens");
                assert!(tell.send((client, Handle::current())).is_ok(), "somebody waits");
                let _ = gone.await; // nothing is ever sent
            });
        });
        let (client, runtime) = told.blocking_recv().expect("it connects");
        Self { client, runtime, stays: Some(stays), thread: Some(thread) }
    }

    fn echo(&self, number: u64) -> u64 {
        let request = self.client.request(ECHO, rpc_params![number]);
        let [back]: [u64; 1] = self.runtime.block_on(request).expect("it answers");
        back
    }
}

impl Drop for Jsonrpsee {
    fn drop(&mut self) {
        drop(self.stays.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        ended.expect("it is taken only here").expect("the server has answered");
    }
}

//! A Jupyter gateway: one that runs already, or one of our own.

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sessile::interpreter::boxed;
use sessile::interpreter::jupyter::{Gateway, JupyterManager};

use crate::engine::AnyManager;

/// Ends the gateway, and its kernels, when its input ends: as it does however we end.
const GATEWAY: &str = "\
import os, runpy, signal, sys, threading
def ends_with_us():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=ends_with_us, daemon=True).start()
runpy.run_module('kernel_gateway', run_name='__main__', alter_sys=True)
";

/// The manager of kernels at this gateway, and what has to live as long as it: a gateway that we have
/// started.
pub(crate) fn manager(
    url: Option<&str>,
    start: bool,
    kernel: Option<&str>,
) -> Result<(AnyManager, Option<StartedGateway>)> {
    let started = start.then(StartedGateway::new).transpose()?;
    let (url, token) = match (&started, url) {
        (Some(started), _) => (&*started.url, Some(started.token.clone())),
        (None, Some(url)) => (url, env::var("JUPYTER_TOKEN").ok()),
        (None, None) => bail!("--engine jupyter needs a gateway: --gateway URL or --start-gateway"),
    };
    let gateway = Gateway::new(url);
    let gateway = match token {
        Some(token) => gateway.token(token),
        None => gateway,
    };
    let builder = JupyterManager::builder(gateway);
    let builder = match kernel {
        Some(name) => builder.kernel(name),
        None => builder,
    };
    Ok((boxed(builder.build()?), started))
}

/// A Kernel Gateway on this machine, for nobody but us. Ends when it is dropped.
pub(crate) struct StartedGateway {
    url: String,
    token: String,
    process: Child,
}

impl StartedGateway {
    fn new() -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?; // free a moment ago
        let secret = || RandomState::new().hash_one("token"); // seeded by the system
        let token = format!("{:016x}{:016x}", secret(), secret());
        let process = Command::new("python3")
            .args(["-c", GATEWAY, "--KernelGatewayApp.ip=127.0.0.1"])
            .arg(format!("--KernelGatewayApp.port={}", address.port()))
            .arg("--KernelGatewayApp.port_retries=0")
            .env("KG_AUTH_TOKEN", &token)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("`python3` cannot be started")?;
        let mut started = Self { url: format!("http://{address}"), token, process };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = started.process.try_wait()? {
                bail!(
                    "the gateway has ended ({status}): is it installed? `python3 -m pip install \
                     jupyter_kernel_gateway ipykernel`"
                );
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("the gateway does not listen at {address} after 60 s");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(started)
    }
}

impl Drop for StartedGateway {
    fn drop(&mut self) {
        // Its kernels have ended: the pool is closed. If not, it ends them at the end of its input.
        drop(self.process.stdin.take());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if self.process.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

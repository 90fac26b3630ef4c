//! Several gateways, of several kinds, some of which go or are full.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::time::Duration;

use jupyter::{Kind, Server};
use sessile::interpreter::Interpreter;
use sessile::interpreter::jupyter::{Gateways, Jupyter, JupyterManager, Placement};
use sessile::{Pool, Registry, Workers};
use support::PATIENCE;

fn gateway(kernel: &mut Jupyter) -> String {
    kernel.gateway().unwrap().to_owned()
}

#[test]
fn keys_on_two_gateways_of_which_one_dies() {
    let mut servers =
        [Server::start(Kind::KernelGateway, &[]), Server::start(Kind::EnterpriseGateway, &[])];
    let manager = JupyterManager::builder(Gateways::new(servers.iter().map(Server::gateway)))
        .reconnect_timeout(Duration::from_millis(300))
        // What is not known to be lost is given up at once here.
        .give_up_after(Duration::ZERO)
        .build()
        .unwrap();
    let registry = Registry::new();
    let pool = Pool::builder(manager.clone()).registry(&registry);
    let workers = Workers::builder(pool).threads(2).build().unwrap();
    let submit = |key: &str, code: &str| {
        let code = code.to_owned();
        let run = move |kernel: &mut Jupyter| (gateway(kernel), kernel.run(&code));
        workers.keyed(key.to_owned()).submit(run).unwrap().join().unwrap()
    };

    // Until both have some.
    let mut keys: Vec<(String, String)> = Vec::new();
    while keys.len() < 4 || keys.iter().all(|(_, at)| *at == keys[0].1) {
        let key = format!("conversation {}", keys.len());
        let (at, outcome) = submit(&key, &format!("x = '{key}'"));
        outcome.unwrap();
        keys.push((key, at));
    }
    let loads: Vec<usize> = manager.kernels().into_iter().map(|(_, kernels)| kernels).collect();
    assert_eq!(loads, [servers[0].kernels().len(), servers[1].kernels().len()]);
    assert_eq!(loads.iter().sum::<usize>(), keys.len());

    let label = |server: &Server| format!("http://127.0.0.1:{}", server.port);
    let dead = label(&servers[0]);
    servers[0].signal("KILL");
    for (key, at) in &keys {
        let (same, outcome) = submit(key, "x");
        assert_eq!(same, *at);
        if *at == dead {
            assert!(outcome.unwrap_err().is_given_up());
            let (other, outcome) = submit(key, "'x' in dir()");
            assert_eq!(outcome.unwrap().text(), Some("False"));
            assert_eq!(other, label(&servers[1]));
        } else {
            assert_eq!(outcome.unwrap().text(), Some(&*format!("'{key}'")));
        }
    }
    assert_eq!(servers[1].kernels().len(), keys.len());

    // The other way round, when it is back: all that are there move over.
    let [first, second] = servers;
    servers = [first.again(), second];
    servers[1].signal("KILL");
    for (key, _) in &keys {
        assert!(submit(key, "1").1.unwrap_err().is_given_up());
        let (other, outcome) = submit(key, "1");
        outcome.unwrap();
        assert_eq!(other, dead);
    }
    assert!(workers.shutdown(PATIENCE).is_clean());
    assert!(servers[0].kernels().is_empty());
    assert!(manager.kernels().iter().all(|(_, kernels)| *kernels == 0));
}

#[test]
fn kernels_by_load_and_a_gateway_that_is_full() {
    let small = Server::start(Kind::KernelGateway, &["--KernelGatewayApp.max_kernels=1"]);
    let large = Server::shared();
    let gateways = Gateways::new([small.gateway(), large.gateway()]);
    let manager = JupyterManager::new(gateways.placement(Placement::Load)).unwrap();
    let mut kernels: Vec<_> = (0..4).map(|_| manager.start().unwrap()).collect();
    let loads: Vec<usize> = manager.kernels().into_iter().map(|(_, kernels)| kernels).collect();
    assert_eq!(loads, [1, 3]);
    for kernel in &mut kernels {
        assert_eq!(kernel.run("6 * 7").unwrap().text(), Some("42"));
    }
    drop(kernels);
    assert!(small.kernels().is_empty());
    assert!(manager.kernels().iter().all(|(_, kernels)| *kernels == 0));
    // Where none can, the first one's words are told.
    let port = small.port;
    drop(small);
    let nowhere = Gateways::new([format!("http://127.0.0.1:{port}")]);
    assert!(JupyterManager::new(nowhere).unwrap().start().unwrap_err().is_start());
}

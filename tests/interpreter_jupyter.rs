//! Cells on real kernels behind real gateways: what comes of them, and on which servers.
//!
//! The gateways come from the package index, into a virtual environment of the tests' own.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jupyter::{Kind, Server, Signal, TOKEN};
use sessile::interpreter::jupyter::{Gateway, Jupyter, JupyterManager};
use sessile::interpreter::{
    ExecuteOptions, Execution, Interpreter, Keep, LateOutput, Output, OutputRef, StdStream,
};
use sessile::session::ConnectOptions;
use sessile::{Pool, Registry, Workers};
use support::{PATIENCE, poll_until};

fn run(kernel: &mut Jupyter, code: &str) -> Execution {
    kernel.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

fn out(text: &str) -> Output {
    Output::Stdout { text: text.into() }
}

fn err(text: &str) -> Output {
    Output::Stderr { text: text.into() }
}

#[track_caller]
fn raises(kernel: &mut Jupyter, code: &str, name: &str, value: &str) -> Execution {
    let execution = run(kernel, code);
    let error = execution.error.as_ref().expect(code);
    assert_eq!((&*error.name, &*error.value), (name, value), "{code}");
    assert!(!error.traceback.contains('\x1b'), "{error:?}");
    assert!(error.traceback.contains(name), "{error:?}");
    execution
}

// ---- one execute ------------------------------------------------------------------------------

#[test]
fn cells_are_a_notebooks() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    assert_eq!(kernel.language(), Some("python"));
    assert!(kernel.language_version().unwrap().starts_with("3."));
    assert_eq!(run(kernel, "x = 41").text(), None);
    let code = "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr, flush=True)\n\
                print('c')\nprint('d')\nx + 1";
    let execution = run(kernel, code);
    assert_eq!(execution.text(), Some("42"));
    assert_eq!(execution.outputs, [out("a\n"), err("b\n"), out("c\nd\n")]);
    assert_eq!(execution.execution_count, 2);
    assert!(!execution.truncated && !execution.timed_out && execution.late.is_empty());
    assert!(execution.duration > Duration::ZERO);
    assert_eq!(run(kernel, "x").text(), Some("41"));
    // It asks to be left, and its kernel to stay.
    run(kernel, "left = 1\nexit(keep_kernel=True)");
    assert_eq!(run(kernel, "left").text(), Some("1"));
}

#[test]
fn displays_come_in_order_with_all_their_forms() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let code = "from IPython.display import display, HTML\nprint(1)\n\
                h = display(HTML('<b>1</b>'), display_id='d')\nh.update(HTML('<b>2</b>'))\n\
                display({'image/png': 'iVBORw0KGgo='}, raw=True)\nprint(2)\nHTML('<i>')";
    let execution = run(kernel, code);
    let [first, one, two, png, last] = &*execution.outputs else { panic!("{execution:?}") };
    let html = |output: &Output| match output {
        Output::Display { data } => data["text/html"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((first, last), (&out("1\n"), &out("2\n")));
    assert_eq!((html(one), html(two)), ("<b>1</b>".into(), "<b>2</b>".into()));
    let Output::Display { data } = png else { panic!("{png:?}") };
    assert_eq!(data["image/png"], "iVBORw0KGgo=");
    assert_eq!(execution.result.unwrap()["text/html"], "<i>");
    // What a pager would show is shown.
    let help = run(kernel, "len?");
    let [Output::Display { data }] = &*help.outputs else { panic!("{help:?}") };
    assert!(data["text/plain"].as_str().unwrap().contains("number of items"));
}

#[test]
fn errors_are_taken_from_where_they_are_right() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let execution = raises(kernel, "print(1)\n1/0", "ZeroDivisionError", "division by zero");
    assert_eq!(execution.outputs, [out("1\n")]);
    assert!(execution.error.unwrap().traceback.ends_with("ZeroDivisionError: division by zero"));
    // In the reply only.
    let words = "Line magic function `%nosuch` not found.";
    raises(kernel, "%nosuch", "UsageError", words);
    // Wrong in the reply.
    let code = "class R:\n    def __repr__(self): raise RuntimeError('no repr')\nR()";
    raises(kernel, code, "RuntimeError", "no repr");
    // And in the next one's, if that awaits.
    let awaits = "import asyncio\nawait asyncio.sleep(0)\n'fine'";
    let execution = run(kernel, awaits);
    assert_eq!((execution.error.as_ref(), execution.text()), (None, Some("'fine'")));
    let words = "raw_input was called, but this frontend does not support input requests.";
    raises(kernel, "input()", "StdinNotImplementedError", words);
    raises(kernel, "import sys; sys.exit(3)", "SystemExit", "3");
    assert!(kernel.is_alive());
}

/// The reply and the outputs come on two channels, in either order, and large outputs late.
#[test]
fn nothing_of_one_cell_is_in_the_next() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    for n in 0..200 {
        let execution = run(kernel, &format!("print('{n}' * 20000)\n{n}"));
        assert_eq!(execution.text(), Some(&*n.to_string()));
        let expected = n.to_string().repeat(20000) + "\n";
        assert!(execution.stdout() == expected, "{n}: {} bytes", execution.stdout().len());
        assert_eq!(execution.execution_count, n + 1);
    }
}

#[test]
fn what_threads_write_late_is_reported_beside_the_next_cell() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let (go, gone) = (Signal::new(), Signal::new());
    let code = format!(
        "import threading\ndef write():\n    {}    print('late')\n    {}\
         t = threading.Thread(target=write)\nt.start()\nprint('in time')",
        go.wait(),
        gone.give(),
    );
    assert_eq!(run(kernel, &code).outputs, [out("in time\n")]);
    go.set();
    poll_until("the thread has written", || gone.is_set());
    let deadline = Instant::now() + PATIENCE;
    let mut late = Vec::new();
    while late.is_empty() {
        assert!(Instant::now() < deadline);
        let execution = run(kernel, "");
        assert!(execution.outputs.is_empty());
        late = execution.late;
    }
    assert_eq!(late, [LateOutput::new(1, StdStream::Stdout, "late\n")]);
    // It is bounded as a cell's own output is.
    let gone = Signal::new();
    let code = format!(
        "def write():\n    for _ in range(2): print('y' * 60, flush=True)\n    {}\
         t = threading.Timer(.3, write)\nt.start()",
        gone.give(),
    );
    run(kernel, &code);
    poll_until("the thread has written", || gone.is_set());
    // What it wrote was sent before what comes next is run.
    let execution = kernel.execute("", &ExecuteOptions::new().max_output(100)).unwrap();
    let told: usize = execution.late.iter().map(|late| late.text.len()).sum();
    assert_eq!((told, execution.truncated), (100, true), "{:?}", execution.late);
}

#[test]
fn outputs_are_shown_as_they_come() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let seen = Signal::new();
    let code = format!("print('first')\n{}display(2)\nprint('third')", seen.wait());
    let mut shown = Vec::new();
    let execution = kernel.execute_with(&code, &limit(30_000), &mut |output| {
        // The cell waits for this.
        seen.set();
        match output {
            OutputRef::Stdout(text) => shown.push(text.to_owned()),
            OutputRef::Display(data) => shown.push(data["text/plain"].to_string()),
            other => panic!("{other:?}"),
        }
    });
    assert!(!execution.unwrap().timed_out);
    assert_eq!(shown.concat(), "first\n\"2\"third\n");
}

#[test]
fn a_panic_in_who_is_shown_ends_the_kernel() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    let id = kernel.kernel_id().unwrap().to_owned();
    let shown = &mut |_: OutputRef<'_>| panic!("on purpose");
    let caught = catch_unwind(AssertUnwindSafe(|| {
        kernel.execute_with("print(1)", &ExecuteOptions::new(), shown)
    }));
    assert!(caught.is_err());
    assert!(!kernel.is_alive());
    assert!(!server.kernels().contains(&id));
    kernel.reset().unwrap();
    assert_eq!(run(&mut kernel, "2").text(), Some("2"));
}

#[test]
fn output_is_bounded_and_says_so() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let options = ExecuteOptions::new().max_output(1000).keep(Keep::Head);
    let execution = kernel.execute("print('é' * 1000)\n'x' * 2000", &options).unwrap();
    assert!(execution.truncated);
    assert_eq!(execution.stdout(), "é".repeat(500));
    assert_eq!(execution.text().unwrap().len(), 1000);
    let execution = kernel.execute("raise ValueError('y' * 3000)", &options).unwrap();
    assert!(execution.truncated);
    assert_eq!(execution.error.unwrap().value.len(), 1000);
    assert!(!kernel.execute("1", &options).unwrap().truncated);
    // Anybody may say what a gateway says.
    let execution = run(kernel, "print('IOPub data rate exceeded.')");
    assert_eq!(execution.outputs, [out("IOPub data rate exceeded.\n")]);
    assert!(!execution.truncated);
    // A form of the value that does not fit is left out whole.
    let code = "class V:\n    def _repr_html_(self): return 'x' * 5000\n    \
                def __repr__(self): return 'short'\nV()";
    let execution = kernel.execute(code, &ExecuteOptions::new().max_data(1000)).unwrap();
    assert_eq!(execution.text(), Some("short"));
    assert_eq!(execution.omitted.len(), 1);
    assert!(!execution.result.unwrap().contains_key("text/html"));
}

#[test]
fn a_cell_as_large_as_a_gateway_takes_and_a_larger_one() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    run(kernel, "x = 7");
    let cell = |bytes: usize| format!("len('{}')", "x".repeat(bytes));
    let largest = (10 << 20) - 1000;
    assert_eq!(run(kernel, &cell(largest)).text(), Some(&*largest.to_string()));
    let error = kernel.run(&cell(10 << 20)).unwrap_err();
    assert!(error.is_refused() && !error.state_lost(), "{error}");
    assert_eq!(run(kernel, "x").text(), Some("7"));
}

// ---- limits and interrupts --------------------------------------------------------------------

#[test]
fn a_cell_is_interrupted_at_its_limit_and_the_state_survives() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    run(kernel, "x = 1\nimport time, asyncio");
    for code in ["time.sleep(60)", "while x: pass", "await asyncio.sleep(60)"] {
        let execution = kernel.execute(code, &limit(200)).unwrap();
        assert!(execution.timed_out);
        assert!(execution.duration < Duration::from_secs(30));
        let name = execution.error.unwrap().name;
        assert!(["KeyboardInterrupt", "CancelledError"].contains(&&*name), "{code}: {name}");
        assert_eq!(run(kernel, "x").text(), Some("1"));
    }
}

#[test]
fn any_thread_can_interrupt_a_cell() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let handle = kernel.interrupt_handle();
    handle.interrupt(); // nothing runs: no harm
    for sleep in ["time.sleep(60)", "await asyncio.sleep(60)"] {
        let code = format!("import time, asyncio\nprint('now')\n{sleep}");
        let execution = kernel
            .execute_with(&code, &ExecuteOptions::new(), &mut |_| {
                let handle = handle.clone();
                thread::spawn(move || handle.interrupt());
            })
            .unwrap();
        let name = execution.error.unwrap().name;
        assert!(["KeyboardInterrupt", "CancelledError"].contains(&&*name), "{name}");
        assert!(!execution.timed_out);
        assert!(execution.duration < PATIENCE);
    }
    assert_eq!(run(kernel, "1").text(), Some("1"));
}

/// What IPython does between the end of the code and the reply is as easily hit as the code.
#[test]
fn an_interrupt_may_hit_the_kernel_where_it_replies() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    let code = "import time\nx = 1\nkernel = get_ipython().kernel\nrestore = kernel._restore_input\n\
                def late():\n    kernel._restore_input = restore\n    restore()\n    \
                print('late', flush=True)\n    time.sleep(600)\nkernel._restore_input = late";
    let handle = kernel.interrupt_handle();
    let seen = &mut |_: OutputRef<'_>| handle.interrupt();
    let execution = kernel.execute_with(code, &limit(30_000), seen).unwrap();
    assert_eq!(execution.error.as_ref().unwrap().name, "KeyboardInterrupt");
    assert_eq!((execution.stdout().as_str(), execution.timed_out), ("late\n", false));
    assert_eq!(execution.execution_count, 1);
    // The same at its limit.
    let execution = kernel.execute(code, &limit(300)).unwrap();
    assert_eq!((execution.stdout().as_str(), execution.timed_out), ("late\n", true));
    assert_eq!(run(&mut kernel, "x").text(), Some("1"));
}

#[test]
fn a_cell_that_does_not_stop_costs_the_kernel() {
    let server = Server::shared();
    let manager = server.builder().grace(Duration::from_millis(300)).build().unwrap();
    for code in [
        "sum(range(10**12))",
        "import time\nwhile True:\n    try:\n        while True: time.sleep(1)\n    \
         except KeyboardInterrupt: pass",
    ] {
        let mut kernel = manager.start().unwrap();
        let id = kernel.kernel_id().unwrap().to_owned();
        let begun = Instant::now();
        let error = kernel.execute(code, &limit(200)).unwrap_err();
        assert!(error.is_timeout() && error.state_lost(), "{error}");
        assert!(begun.elapsed() < PATIENCE);
        assert!(!server.kernels().contains(&id));
        assert!(!kernel.is_alive());
        assert!(kernel.run("1").unwrap_err().is_dead());
        kernel.reset().unwrap();
        assert_eq!(run(&mut kernel, "'time' in dir()").text(), Some("False"));
    }
}

#[test]
fn a_reset_begins_anew_on_the_same_kernel() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    let handle = kernel.interrupt_handle();
    let id = kernel.kernel_id().unwrap().to_owned();
    for _ in 0..3 {
        run(&mut kernel, "x = 1");
        kernel.reset().unwrap();
        let execution = run(&mut kernel, "'x' in dir()");
        assert_eq!((execution.text(), execution.execution_count), (Some("False"), 1));
    }
    assert_eq!(kernel.kernel_id(), Some(&*id));
    let interrupt = &mut |_: OutputRef<'_>| handle.interrupt();
    let code = "print()\nimport time; time.sleep(60)";
    assert!(kernel.execute_with(code, &limit(30_000), interrupt).unwrap().error.is_some());
}

// ---- rate limits ------------------------------------------------------------------------------

#[test]
fn what_a_gateway_throws_away_is_told_and_the_value_is_asked_for_again() {
    let server = Server::shared();
    let kernel = &mut server.manager().start().unwrap();
    let execution = run(kernel, "print('x' * 3_200_000)\n'the value'");
    assert!(execution.truncated);
    assert_eq!(execution.text(), Some("'the value'"));
    assert_eq!(execution.stderr(), "");
    // No value is none, whatever the cell before had.
    let execution = run(kernel, "print('x' * 3_200_000)");
    assert!(execution.truncated);
    assert_eq!(execution.text(), None);
    // The error's message is thrown away, and the reply has it.
    raises(kernel, "print('x' * 3_200_000)\n1/0", "ZeroDivisionError", "division by zero");
    let execution = run(kernel, "1");
    assert!(!execution.truncated);
    assert_eq!((execution.text(), execution.execution_count), (Some("1"), 4));
}

#[test]
fn a_gateway_throws_away_what_are_too_many_messages() {
    // So few that any machine writes more.
    let few = "--ZMQChannelsWebsocketConnection.iopub_msg_rate_limit=10";
    let server = Server::start(Kind::KernelGateway, &[few]);
    let kernel = &mut server.manager().start().unwrap();
    let execution = run(kernel, "for n in range(1000): display(n)\n'end'");
    assert!(execution.truncated);
    assert_eq!(execution.text(), Some("'end'"));
    let execution = run(kernel, "1");
    assert!(!execution.truncated);
    assert_eq!((execution.text(), execution.execution_count), (Some("1"), 2));
}

#[test]
fn a_gateway_without_limits_throws_nothing_away() {
    let free = "--ZMQChannelsWebsocketConnection.limit_rate=False";
    let server = Server::start(Kind::KernelGateway, &[free]);
    let kernel = &mut server.manager().start().unwrap();
    let options = ExecuteOptions::new().max_output(usize::MAX);
    let code = "print('x' * 5_000_000)\nfor n in range(1500): display(n)\n'end'";
    let execution = kernel.execute(code, &options).unwrap();
    assert!(!execution.truncated);
    assert_eq!(execution.stdout().len(), 5_000_001);
    assert_eq!(execution.outputs.len(), 1501);
    assert_eq!(execution.text(), Some("'end'"));
}

// ---- servers and kernels ----------------------------------------------------------------------

/// All that a server is needed for.
fn serves(server: &Server, manager: &JupyterManager) {
    let mut kernel = manager.start().unwrap();
    let id = kernel.kernel_id().unwrap().to_owned();
    assert!(server.kernels().contains(&id));
    let execution = run(&mut kernel, "print('héllo 🦀')\nx = 6\nx * 7");
    assert_eq!((execution.stdout(), execution.text()), ("héllo 🦀\n".into(), Some("42")));
    raises(&mut kernel, "1/0", "ZeroDivisionError", "division by zero");
    let png = run(&mut kernel, "display({'image/png': 'iVBORw0KGgo='}, raw=True)");
    assert!(matches!(&*png.outputs, [Output::Display { data }] if data.contains_key("image/png")));
    assert!(kernel.execute("import time; time.sleep(60)", &limit(200)).unwrap().timed_out);
    assert_eq!(run(&mut kernel, "x").text(), Some("6"));
    kernel.reset().unwrap();
    assert_eq!(run(&mut kernel, "'x' in dir()").text(), Some("False"));
    let error = kernel.run("import os; os._exit(1)").unwrap_err();
    assert!(error.state_lost(), "{error}");
    assert!(!server.kernels().contains(&id));
}

#[test]
fn a_kernel_gateway_with_messages_in_json() {
    let server = Server::shared();
    serves(&server, &server.builder().json_frames(true).build().unwrap());
}

#[test]
fn a_jupyter_server() {
    let server = Server::start(Kind::JupyterServer, &["--ServerApp.base_url=/base"]);
    serves(&server, &server.manager());
}

#[test]
fn an_enterprise_gateway() {
    let server = Server::start(Kind::EnterpriseGateway, &[]);
    serves(&server, &server.manager());
    let gateway = server.gateway().username("bob");
    let manager = JupyterManager::builder(gateway).env("KERNEL_FOO", "foo").build().unwrap();
    let mut kernel = manager.start().unwrap();
    let code = "import os\nos.environ['KERNEL_USERNAME'], os.environ['KERNEL_FOO']";
    assert_eq!(run(&mut kernel, code).text(), Some("('bob', 'foo')"));
    drop(kernel);
    let error = JupyterManager::new(server.gateway().username("root")).unwrap().start();
    assert!(error.unwrap_err().to_string().contains("403"));
}

#[test]
fn a_kernel_that_is_not_python() {
    let server = Server::shared();
    let manager = server.builder().kernel("bash").build().unwrap();
    let kernel = &mut manager.start().unwrap();
    assert_eq!(kernel.language(), Some("bash"));
    run(kernel, "x=sessile");
    assert_eq!(run(kernel, "echo $x; echo $((6 * 7))").stdout(), "sessile\n42\n");
    assert!(kernel.execute("sleep 60", &limit(200)).unwrap().timed_out);
    assert_eq!(run(kernel, "echo $x").stdout(), "sessile\n");
}

#[test]
fn kernels_start_where_they_are_told_to() {
    let server = Server::shared();
    let manager = server.builder().kernel("python3").path("kernels/bash").build().unwrap();
    let kernel = &mut manager.start().unwrap();
    let execution = run(kernel, "import os; os.path.exists('kernel.json')");
    assert_eq!(execution.text(), Some("True"));
}

// ---- what is refused --------------------------------------------------------------------------

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let server = Server::start(Kind::KernelGateway, &["--KernelGatewayApp.max_kernels=1"]);
    let fails = |manager: JupyterManager, why: &str| {
        let error = manager.start().unwrap_err();
        assert!(error.is_start() && !error.state_lost(), "{error}");
        let text = error.to_string();
        assert!(text.contains(why), "{text}");
        assert!(!text.contains(TOKEN) && !format!("{error:?}").contains(TOKEN));
    };
    let url = format!("http://127.0.0.1:{}", server.port);
    fails(JupyterManager::new(&*url).unwrap(), "401");
    fails(JupyterManager::new(Gateway::new(&*url).token("wrong")).unwrap(), "401");
    fails(server.builder().kernel("nosuch").build().unwrap(), "500");
    assert!(server.kernels().is_empty());
    let kernel = server.manager().start().unwrap();
    fails(server.manager(), "Resource Limit");
    drop(kernel);
    assert!(server.kernels().is_empty());
    drop(server.manager().start().unwrap());
    let manager = server.manager();
    drop(server);
    fails(manager, "does not answer");
}

#[test]
fn a_url_with_secrets_is_refused() {
    let refused = |gateway: Gateway| JupyterManager::new(gateway).unwrap_err().to_string();
    assert!(refused("http://a:hush@host".into()).contains("credentials"));
    assert!(refused("http://host/?token=hush".into()).contains("query"));
    assert!(refused("ftp://host".into()).contains("http://"));
    assert!(refused("no url".into()).contains("URL"));
    assert!(refused(Gateway::new("http://host").token("a\nb")).contains("token"));
    let options = ConnectOptions::new("http://host").header("Authorization", "b");
    let twice = Gateway::new(options).token("a");
    assert!(refused(twice).contains("Authorization"));
    let debug = format!("{:?}", JupyterManager::new(Gateway::new("http://host").token("hush")));
    assert!(debug.contains("http://host") && !debug.contains("hush"), "{debug}");
    let debug = format!("{:?}", JupyterManager::builder(Gateway::new("http://host").token("hush")));
    assert!(!debug.contains("hush"), "{debug}");
}

// ---- threads ----------------------------------------------------------------------------------

#[test]
fn threads_that_start_at_once_never_cross() {
    let server = Server::shared();
    let registry = Registry::new();
    let pool = Pool::builder(server.manager()).registry(&registry).build().unwrap();
    let ids = Mutex::new(HashSet::new());
    let work = |number: usize| {
        for round in 0..5 {
            let mark = |kernel: &mut Jupyter| {
                run(kernel, &format!("mark = '{number}'; n = {round}"));
                let text = format!("('{number}', {round})");
                assert_eq!(run(kernel, "mark, n").text(), Some(&*text));
                ids.lock().unwrap().insert(kernel.kernel_id().unwrap().to_owned());
            };
            pool.with(mark).unwrap();
        }
        pool.close_here().unwrap();
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..6).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(registry.snapshot().is_empty());
    let ids = ids.into_inner().unwrap();
    assert_eq!(ids.len(), 6);
    assert!(!server.kernels().iter().any(|left| ids.contains(left)));
}

#[test]
fn keyed_sessions_each_have_a_kernel() {
    let server = Server::shared();
    let registry = Registry::new();
    let pool = Pool::builder(server.manager()).registry(&registry);
    let workers = Workers::builder(pool).threads(2).build().unwrap();
    let keys = ["alice", "bob", "carol"];
    let keyed = |key: &str| workers.keyed(key.to_owned());
    for key in keys {
        let code = format!("who = '{key}'");
        keyed(key).submit(move |kernel| run(kernel, &code)).unwrap().join().unwrap();
    }
    assert_eq!(registry.snapshot().instances.len(), 3);
    for key in keys {
        let execution = keyed(key).submit(|kernel| run(kernel, "who")).unwrap().join().unwrap();
        assert_eq!(execution.text(), Some(&*format!("'{key}'")));
    }
    let report = workers.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report:?}");
    assert!(registry.snapshot().is_empty());
}

#[test]
fn closing_a_pool_interrupts_the_cell_that_keeps_it() {
    let server = Server::shared();
    let registry = Registry::new();
    let pool = Pool::builder(server.manager()).registry(&registry).build().unwrap();
    let running = AtomicBool::new(false);
    thread::scope(|scope| {
        let straggler = scope.spawn(|| {
            pool.with(|kernel| {
                let code = "print()\nimport time\nwhile True: time.sleep(1)";
                let seen = &mut |_: OutputRef<'_>| running.store(true, Ordering::SeqCst);
                kernel.execute_with(code, &ExecuteOptions::new(), seen)
            })
            .unwrap()
        });
        poll_until("the cell runs", || running.load(Ordering::SeqCst));
        let report = pool.close(Duration::from_secs(6));
        assert!(report.is_clean(), "{report}");
        assert_eq!(straggler.join().unwrap().unwrap().error.unwrap().name, "KeyboardInterrupt");
    });
}

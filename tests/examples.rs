//! The examples run to their end. What they say is asserted in them.

#[allow(dead_code)] // its `main`, which takes its time
#[path = "../examples/call_soon_threadsafe.rs"]
mod call_soon_threadsafe;
#[cfg(feature = "monty")]
#[path = "../examples/code_interpreter.rs"]
mod code_interpreter;
#[path = "../examples/lua.rs"]
mod lua;
#[path = "../examples/rayon_sqlite.rs"]
mod rayon_sqlite;
#[cfg(feature = "ws")]
#[path = "../examples/websocket_sessions.rs"]
mod websocket_sessions;

#[test]
fn lua_interpreters_close_on_their_own_threads() {
    lua::main().unwrap();
}

#[test]
fn rayon_finds_with_many_connections_what_one_finds() {
    rayon_sqlite::main().unwrap();
}

#[cfg(feature = "monty")]
#[test]
fn each_thread_has_its_own_variables_and_keeps_them() {
    code_interpreter::main().unwrap();
}

#[cfg(feature = "ws")]
#[test]
fn each_thread_has_its_own_web_socket_and_says_goodbye() {
    websocket_sessions::main().unwrap();
}

#[test]
fn a_loop_that_waits_for_an_event_prints_what_asyncio_prints() {
    let (tell, told) = std::sync::mpsc::channel();
    let pause = std::time::Duration::from_millis(10);
    call_soon_threadsafe::run(pause, move |line| tell.send(line.to_owned()).unwrap()).unwrap();
    let lines: Vec<_> = told.into_iter().collect();
    assert_eq!(lines, ["waiting", "setting the event", "the event is set"]);
}

//! The examples run to their end. What they say is asserted in them.

#[path = "../examples/lua.rs"]
mod lua;
#[path = "../examples/rayon_sqlite.rs"]
mod rayon_sqlite;

#[test]
fn lua_interpreters_close_on_their_own_threads() {
    lua::main().unwrap();
}

#[test]
fn rayon_finds_with_many_connections_what_one_finds() {
    rayon_sqlite::main().unwrap();
}

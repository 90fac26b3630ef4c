//! One Lua interpreter for each thread, which cannot leave it, and keeps what its scripts define.
//!
//! ```text
//! cargo run --example lua
//! ```

use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use anyhow::{Result, anyhow};
use mlua::Lua;
use sessile::manager::CloseReason;
use sessile::{CreateContext, Manager, Pool, Registry};

/// Starts interpreters, and notes on which threads they are closed.
struct Interpreters {
    closed_on: Arc<Mutex<Vec<ThreadId>>>,
}

impl Manager for Interpreters {
    type Instance = Lua;

    fn create(&self, cx: &CreateContext) -> Result<Lua> {
        let lua = Lua::new();
        let define = lua.load("name, calls = ..., 0");
        // As errors of Lua are not `Send` either, only their text goes further.
        define.call::<()>(cx.owner().to_string()).map_err(|error| anyhow!("{error}"))?;
        Ok(lua)
    }

    fn close(&self, lua: Lua, _: CloseReason) -> Result<()> {
        drop(lua);
        self.closed_on.lock().expect("nobody panics with it").push(thread::current().id());
        Ok(())
    }
}

fn call(lua: &mut Lua) -> Result<String> {
    let script = lua.load("calls = calls + 1; return name .. ' has run ' .. calls");
    script.eval().map_err(|error| anyhow!("{error}"))
}

pub(crate) fn main() -> Result<()> {
    let closed_on = Arc::default();
    // Without its feature `send`, `mlua::Lua` is not `Send`, and in return takes no locks. `Pool::new`
    // would not compile, for its instances may be closed by other threads:
    //
    //     error[E0277]: `Rc<ReentrantMutex<RawLua>>` cannot be sent between threads safely
    let pool = Pool::new_local(Interpreters { closed_on: Arc::clone(&closed_on) });

    let (ran, ordered) = (Barrier::new(4), Barrier::new(4));
    let work = |calls: usize| -> Result<ThreadId> {
        let said: Result<Vec<_>> = (0..calls).map(|_| pool.with(call)?).collect();
        ran.wait();
        ordered.wait();
        // By now the pool has been ordered closed. This thread carries that out when it next uses any
        // pool, or ends. Here the use is of the same pool, which makes no new instance.
        let refused = pool.with(call).is_err_and(|error| error.is_closed());

        let name = thread::current().name().unwrap_or_default().to_owned();
        assert_eq!(said?.last(), Some(&format!("{name} has run {calls}")));
        assert!(refused);
        Ok(thread::current().id())
    };

    let owners = thread::scope(|s| -> Result<Vec<ThreadId>> {
        let spawn = |calls| {
            let thread = thread::Builder::new().name(format!("lua-{calls}"));
            thread.spawn_scoped(s, move || work(calls)).expect("there is room for three threads")
        };
        let threads = [10, 20, 30].map(spawn);

        ran.wait();
        println!("{}\n", Registry::global().snapshot());

        // No time is given, so the report shows what an order from afar can do by itself: only ask.
        let report = pool.close(Duration::ZERO);
        println!("{report}\n\n{}\n", Registry::global().snapshot());
        ordered.wait();
        assert_eq!((report.closed, report.still_open.len()), (0, 3));

        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })?;

    let closed_on = closed_on.lock().expect("nobody panics with it");
    assert_eq!(closed_on.len(), 3);
    assert!(owners.iter().all(|owner| closed_on.contains(owner)));
    println!("each was closed on its own thread: {}", Registry::global().snapshot());
    Ok(())
}

//! A loop waits for an event, and a thread sets it after a while: asyncio's program, which hangs when
//! it is written with `call_soon`. Here that does not compile.
//!
//! ```python
//! def set_later(loop, event):
//!     time.sleep(1)
//!     print("setting the event")
//!     loop.call_soon(event.set)             # queues, and wakes nobody: it waits for ever
//!     loop.call_soon_threadsafe(event.set)  # queues, and wakes
//!
//! async def main():
//!     event = asyncio.Event()
//!     threading.Thread(target=set_later, args=(asyncio.get_running_loop(), event)).start()
//!     print("waiting")
//!     await event.wait()
//!     print("the event is set")
//! ```

use std::cell::Cell;
use std::io;
use std::thread;
use std::time::Duration;

use sessile::EventLoop;
use sessile::event_loop::LocalHandle;

// As asyncio's event, it belongs to the loop's thread, and knows no lock.
thread_local!(static EVENT: Cell<bool> = const { Cell::new(false) });

fn set() {
    EVENT.set(true);
    LocalHandle::current().expect("this runs in the loop").stop();
}

/// Prints what asyncio's program prints.
pub(crate) fn run(
    pause: Duration,
    print: impl Fn(&str) + Clone + Send + 'static,
) -> io::Result<()> {
    let event_loop = EventLoop::new();
    let (handle, prints) = (event_loop.handle(), print.clone());
    let set_later = thread::spawn(move || {
        thread::sleep(pause);
        prints("setting the event");
        // handle.call_soon(set):
        //     error[E0599]: no method named `call_soon` found for struct `Handle`
        // The same with `event_loop.local()` brought along, which has it:
        //     error[E0277]: `Rc<event_loop::local::Local>` cannot be sent between threads safely
        handle.call_soon_threadsafe(set).expect("the loop is there");
    });
    print("waiting");
    event_loop.run()?;
    assert!(EVENT.get() && set_later.join().is_ok());
    print("the event is set");
    Ok(())
}

fn main() -> io::Result<()> {
    run(Duration::from_secs(1), |line| println!("{line}"))
}

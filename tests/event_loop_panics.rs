//! Foreign code that panics in a loop: in a callback, in a destructor, in a handler.

mod support;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use sessile::EventLoop;
use sessile::event_loop::Interest;
use sessile::event_loop::LocalHandle;
use support::promptly;

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

type Told = Rc<RefCell<Vec<String>>>;

fn message(payload: &(dyn Any + Send)) -> String {
    payload.downcast_ref::<&str>().map_or_else(|| "?".to_owned(), |text| (*text).to_owned())
}

fn with_handler() -> (EventLoop, Told) {
    let told = Told::default();
    let tell = Rc::clone(&told);
    let handler = move |payload: Box<dyn Any + Send>| {
        tell.borrow_mut().push(message(&*payload));
    };
    (EventLoop::builder().exception_handler(handler).build(), told)
}

fn in_turn(event_loop: &EventLoop) -> bool {
    event_loop.run_once(Duration::ZERO).expect("a turn")
}

#[test]
fn a_panic_in_a_callback_ends_the_loop() {
    let (event_loop, told) = with_handler();
    let (local, after) = (event_loop.local(), Rc::new(Cell::new(0)));
    local.call_soon(|| panic!("local"));
    local.call_later(Duration::ZERO, || panic!("timer"));
    event_loop.handle().call_soon_threadsafe(|| panic!("posted")).unwrap();
    let count = Rc::clone(&after);
    local.call_soon(move || count.set(count.get() + 1));
    while in_turn(&event_loop) {}
    assert_eq!(after.get(), 1);
    let mut told = told.take();
    told.sort();
    assert_eq!(told, ["local", "posted", "timer"]);
}

#[test]
fn a_panic_without_a_handler_ends_the_loop() {
    let event_loop = EventLoop::new();
    event_loop.local().call_soon(|| std::panic::panic_any(PanicsWhenDropped));
    let called = event_loop.handle().call(|| 7).unwrap();
    assert!(event_loop.run_until(&called).unwrap());
    assert_eq!(called.join().unwrap(), 7);
}

#[test]
fn a_handler_that_panics_ends_the_loop() {
    let handler = |_: Box<dyn Any + Send>| panic!("the handler too");
    let event_loop = EventLoop::builder().exception_handler(handler).build();
    event_loop.local().call_soon(|| panic!("first"));
    assert!(in_turn(&event_loop));
    let slow = EventLoop::builder().slow_callback(Duration::ZERO, |_| panic!("slow")).build();
    slow.local().call_soon(|| std::thread::sleep(Duration::from_millis(1)));
    assert!(in_turn(&slow));
}

#[test]
fn a_panic_in_call_goes_to_the_exception_handler_instead_of_its_handle() {
    let (event_loop, told) = with_handler();
    let called = event_loop.handle().call(|| -> u8 { panic!("for the handle") }).unwrap();
    assert!(event_loop.run_until(&called).unwrap());
    let error = called.join().unwrap_err();
    assert!(error.is_panic());
    assert_eq!(message(&*error.try_into_panic().unwrap()), "for the handle");
    assert!(told.take().is_empty());
}

#[test]
fn a_source_is_lost_when_its_callback_panics() {
    let (event_loop, told) = with_handler();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let source = event_loop.local().add(reader, Interest::READABLE, |_, _| panic!("reader"));
    std::io::Write::write_all(&mut writer, b"x").unwrap();
    assert!(in_turn(&event_loop));
    assert!(in_turn(&event_loop), "it is called again: nobody has read");
    assert_eq!(told.take(), ["reader", "reader"]);
    assert!(source.unwrap().remove().is_some());
    assert!(!in_turn(&event_loop));
}

/// The destructor of a callback that is cancelled runs in the loop, and may do as it likes there.
#[test]
fn a_cancelled_callback_whose_destructor_panics_ends_the_loop() {
    let event_loop = EventLoop::new();
    let local = event_loop.local();
    let bomb = PanicsWhenDropped;
    local.call_soon(move || drop(bomb)).cancel();
    let bomb = PanicsWhenDropped;
    local.call_later(Duration::from_secs(3600), move || drop(bomb)).cancel();
    assert!(!event_loop.run_once(Duration::from_millis(1)).unwrap());
}

#[test]
fn a_cancelled_timer_whose_destructor_schedules_finds_the_timers_borrowed() {
    struct Schedules(LocalHandle, Rc<Cell<bool>>);
    impl Drop for Schedules {
        fn drop(&mut self) {
            let called = Rc::clone(&self.1);
            self.0.call_later(Duration::ZERO, move || called.set(true));
        }
    }
    let (event_loop, called) = (EventLoop::new(), Rc::new(Cell::new(false)));
    let local = event_loop.local();
    for _ in 0..300 {
        // Enough of them to be weeded out, and one that is left to be found when it comes first.
        let bomb = Schedules(local.clone(), Rc::clone(&called));
        local.call_later(Duration::from_secs(3600), move || drop(bomb)).cancel();
    }
    event_loop.run_once(Duration::from_millis(1)).unwrap();
    in_turn(&event_loop);
    assert!(called.get());
}

/// One panic while a loop closes must not keep the handles behind it waiting for ever.
#[test]
fn a_destructor_that_panics_at_close_leaves_others_waiting() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let (handle, local) = (event_loop.handle(), event_loop.local());
        let mut posted = Vec::new();
        let mut futures = Vec::new();
        for _ in 0..3 {
            let bomb = PanicsWhenDropped;
            handle.call_soon_threadsafe(move || drop(bomb)).unwrap();
            posted.push(handle.call(|| ()).unwrap());
            let bomb = PanicsWhenDropped;
            local.call_soon(move || drop(bomb));
            let bomb = PanicsWhenDropped;
            local.call_later(Duration::ZERO, move || drop(bomb));
            let bomb = PanicsWhenDropped;
            futures.push(local.spawn_local(async move { drop(bomb) }));
        }
        drop(event_loop);
        for called in posted {
            let error = std::thread::spawn(|| called.join()).join().unwrap().unwrap_err();
            assert!(error.is_cancelled() && error.into_body().is_some());
        }
        assert!(futures.iter().all(sessile::task::JoinHandle::is_finished));
    });
}

#[test]
fn a_post_from_a_destructor_at_close_is_taken_and_lost() {
    let event_loop = EventLoop::new();
    struct Posts(sessile::event_loop::Handle, std::sync::mpsc::Sender<bool>);
    impl Drop for Posts {
        fn drop(&mut self) {
            let refused =
                self.0.call_soon_threadsafe(|| ()).is_err_and(|refused| refused.is_closed());
            let _ = self.1.send(refused);
        }
    }
    let (tell, told) = std::sync::mpsc::channel();
    let posts = Posts(event_loop.handle(), tell);
    event_loop.local().call_soon(move || drop(posts));
    drop(event_loop);
    assert!(told.recv().unwrap());
}

//! Sockets and pipes in a loop: sources that are not seen, seen too often, or after they are gone.

mod support;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use sessile::EventLoop;
use sessile::event_loop::LocalHandle;
use sessile::event_loop::{Interest, Readiness, Source};
use support::promptly;

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().expect("a pipe can be had")
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    here.set_nonblocking(true).unwrap();
    (here, there)
}

fn in_turn(event_loop: &EventLoop) -> bool {
    event_loop.run_once(Duration::ZERO).expect("a turn")
}

/// A callback that counts its calls and reads nothing.
fn counting<S>(calls: &Rc<Cell<usize>>) -> impl FnMut(&S, Readiness) + 'static {
    let calls = Rc::clone(calls);
    move |_, _| calls.set(calls.get() + 1)
}

#[test]
fn a_pipe_that_can_be_read_does_not_wake_the_loop() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let (reader, mut writer) = pipe();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let hears = Rc::clone(&heard);
        let _source =
            event_loop.local().add(reader, Interest::READABLE, move |mut reader, ready| {
                assert!(ready.readable && !ready.writable);
                let mut byte = [0];
                assert_eq!(reader.read(&mut byte).unwrap(), 1);
                hears.borrow_mut().push(byte[0]);
                if byte[0] == b'!' {
                    LocalHandle::current().unwrap().stop();
                }
            });
        let writes = thread::spawn(move || writer.write_all(b"ring!").unwrap());
        event_loop.run().unwrap();
        writes.join().unwrap();
        assert_eq!(*heard.borrow(), b"ring!", "called for as long as there is something to read");
    });
}

#[test]
fn a_socket_is_not_told_when_it_can_be_written() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let (here, mut there) = sockets();
        let source =
            event_loop.local().add(here, Interest::WRITABLE, |mut here: &TcpStream, ready| {
                assert!(ready.writable && !ready.readable);
                match here.write(&[7; 1 << 16]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
            });
        let source = source.unwrap();
        while in_turn(&event_loop) {} // until it is full
        let reads = thread::spawn(move || there.read_exact(&mut vec![0; 1 << 20]).map(|()| there));
        assert!(event_loop.run_once(None).unwrap(), "there is room again");
        while !reads.is_finished() {
            event_loop.run_once(Duration::from_millis(1)).unwrap();
        }
        drop(source);
        reads.join().unwrap().unwrap();
    });
}

#[test]
fn an_interest_that_was_modified_is_the_old_one() {
    let event_loop = EventLoop::new();
    let (here, mut there) = sockets();
    let calls = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&calls);
    let source = event_loop.local().add(here, Interest::NONE, move |_, ready| {
        noted.borrow_mut().push((ready.readable, ready.writable));
    });
    let source = source.unwrap();
    there.write_all(b"x").unwrap();
    assert!(!event_loop.run_once(Duration::from_millis(5)).unwrap(), "nothing was asked");
    source.modify(Interest::WRITABLE).unwrap();
    assert!(event_loop.run_once(None).unwrap());
    source.modify(Interest::READABLE).unwrap();
    assert!(event_loop.run_once(None).unwrap());
    source.modify(Interest::BOTH).unwrap();
    assert!(event_loop.run_once(None).unwrap());
    source.modify(Interest::NONE).unwrap();
    source.modify(Interest::NONE).unwrap();
    assert!(!event_loop.run_once(Duration::from_millis(5)).unwrap());
    source.modify(Interest::READABLE).unwrap();
    assert!(event_loop.run_once(None).unwrap());
    let expected = [(false, true), (true, false), (true, true), (true, false)];
    assert_eq!(*calls.borrow(), expected);
}

/// A poller tells of a peer that has gone whatever was asked. The loop would not sleep any more.
#[test]
fn a_peer_that_closes_keeps_a_loop_awake_that_watches_for_nothing() {
    let event_loop = EventLoop::new();
    let (here, there) = sockets();
    let calls = Rc::new(Cell::new(0));
    let source = event_loop.local().add(here, Interest::READABLE, counting(&calls)).unwrap();
    let (reader, writer) = pipe();
    let piped = event_loop.local().add(reader, Interest::NONE, counting(&calls)).unwrap();
    source.modify(Interest::NONE).unwrap();
    source.shutdown(Shutdown::Write).unwrap();
    drop((there, writer));
    assert!(!event_loop.run_once(Duration::from_millis(5)).unwrap());
    assert_eq!(calls.get(), 0);
    source.modify(Interest::READABLE).unwrap();
    piped.modify(Interest::READABLE).unwrap();
    assert!(event_loop.run_once(None).unwrap());
    assert_eq!(calls.get(), 2, "asked again, both are told of the end");
}

#[test]
fn a_peer_that_closes_goes_unnoticed() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let (here, there) = sockets();
        let ended = Rc::new(Cell::new(false));
        let end = Rc::clone(&ended);
        let _source = event_loop.local().add(here, Interest::READABLE, move |mut here, ready| {
            assert!(ready.readable);
            assert_eq!(here.read(&mut [0]).unwrap(), 0);
            end.set(true);
        });
        let closes = thread::spawn(move || drop(there));
        assert!(event_loop.run_once(None).unwrap());
        assert!(ended.get());
        closes.join().unwrap();
    });
}

#[test]
fn a_source_that_was_removed_is_called() {
    let event_loop = EventLoop::new();
    let (reader, mut writer) = pipe();
    let calls = Rc::new(Cell::new(0));
    let source = event_loop.local().add(reader, Interest::READABLE, counting(&calls)).unwrap();
    writer.write_all(b"x").unwrap();
    assert!(in_turn(&event_loop));
    let mut reader = source.remove().expect("it comes back");
    assert!(!event_loop.run_once(Duration::from_millis(2)).unwrap());
    assert_eq!(calls.get(), 1);
    assert_eq!(reader.read(&mut [0]).unwrap(), 1, "and it is open");
    let source = event_loop.local().add(reader, Interest::READABLE, counting(&calls)).unwrap();
    drop(source); // closed, this time
    assert_eq!(writer.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

/// Its readiness is queued already when another callback of the turn removes it.
#[test]
fn a_source_that_was_removed_in_the_turn_is_called() {
    let event_loop = EventLoop::new();
    let ((one, mut writes_one), (two, mut writes_two)) = (pipe(), pipe());
    let sources = Rc::new(RefCell::new(Vec::<Source<PipeReader>>::new()));
    let calls = Rc::new(Cell::new(0));
    for reader in [one, two] {
        let (all, calls) = (Rc::downgrade(&sources), Rc::clone(&calls));
        let added = event_loop.local().add(reader, Interest::READABLE, move |_, _| {
            calls.set(calls.get() + 1);
            let all = all.upgrade().unwrap().take();
            assert_eq!(all.len(), 2);
            for source in all {
                source.remove(); // this one too, from inside its own callback
            }
        });
        sources.borrow_mut().push(added.unwrap());
    }
    writes_one.write_all(b"x").unwrap();
    writes_two.write_all(b"x").unwrap();
    assert!(in_turn(&event_loop));
    assert!(!in_turn(&event_loop));
    assert_eq!(calls.get(), 1);
    assert!(writes_one.write_all(b"x").is_err(), "closed, for it was removed by itself");
}

/// Its readiness stays behind a full batch, and the poller tells of it turn after turn.
#[test]
fn a_source_is_called_twice_for_what_it_has_read() {
    promptly("loop", || {
        let event_loop = EventLoop::builder().batch(4).build();
        let (reader, mut writer) = pipe();
        let calls = Rc::new(Cell::new(0));
        let counts = Rc::clone(&calls);
        let add = event_loop.local().add(reader, Interest::READABLE, move |mut reader, _| {
            counts.set(counts.get() + 1);
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 1); // called in vain, it would block
        });
        let _source = add.unwrap();
        for _ in 0..20 {
            event_loop.local().call_soon(|| ());
        }
        writer.write_all(b"x").unwrap();
        while in_turn(&event_loop) {}
        assert_eq!(calls.get(), 1);
    });
}

#[test]
fn a_source_is_used_after_its_loop_has_gone() {
    let event_loop = EventLoop::new();
    let (reader, mut writer) = pipe();
    let held = Rc::new(());
    let holds = Rc::clone(&held);
    let add = event_loop.local().add(reader, Interest::READABLE, move |_, _| drop(holds.clone()));
    let source = add.unwrap();
    let local = event_loop.local();
    drop(event_loop);
    assert_eq!(Rc::strong_count(&held), 1, "the callback is gone with the loop");
    assert!(source.modify(Interest::BOTH).is_err());
    writer.write_all(b"x").unwrap();
    let mut reader = source.remove().expect("it comes back still");
    assert_eq!(reader.read(&mut [0]).unwrap(), 1);
    assert!(local.add(reader, Interest::READABLE, |_, _| ()).is_err());
}

#[test]
fn a_source_that_its_own_callback_holds_is_leaked_by_the_loop() {
    let event_loop = EventLoop::new();
    let (reader, mut writer) = pipe();
    let itself = Rc::new(RefCell::new(None::<Source<PipeReader>>));
    let holds = Rc::clone(&itself);
    let source = event_loop.local().add(reader, Interest::READABLE, move |_, _| {
        let _ = holds.borrow().is_some();
    });
    *itself.borrow_mut() = Some(source.unwrap());
    drop(itself);
    drop(event_loop);
    assert_eq!(writer.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_plain_file_is_watched_in_vain() {
    let event_loop = EventLoop::new();
    let file = std::fs::File::open("Cargo.toml").unwrap();
    let refused = event_loop.local().add(file, Interest::READABLE, |_, _| ());
    assert!(refused.is_err());
    assert!(!in_turn(&event_loop));
}

/// The first source of a loop moves its bed from the park to the poller; the last moves it back.
#[test]
fn a_loop_is_woken_where_it_slept_before() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let handle = event_loop.handle();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let posts = thread::spawn(move || {
            for () in gone {
                handle.call_soon_threadsafe(|| ()).unwrap();
            }
        });
        for _ in 0..100 {
            go.send(()).unwrap();
            assert!(run_until_called(&event_loop), "parked");
            let (reader, _writer) = pipe();
            let added = event_loop.local().add(reader, Interest::READABLE, |_, _| ()).unwrap();
            go.send(()).unwrap();
            assert!(run_until_called(&event_loop), "in the poller");
            drop(added);
        }
        drop(go);
        posts.join().unwrap();
    });
}

/// A wake that is left over from the last sleep ends a turn early: that is no call.
fn run_until_called(event_loop: &EventLoop) -> bool {
    (0..1000).any(|_| event_loop.run_once(None).unwrap())
}

//! Sockets and pipes in a loop: sources that are not seen, seen too often, or after they are gone.

mod support;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
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

// ---- several sources on one descriptor -----------------------------------------------------------

/// One reads and one is at rest; whatever becomes of the one at rest, the other goes on.
#[test]
fn a_source_at_rest_does_not_silence_another_on_its_descriptor() {
    let event_loop = EventLoop::new();
    let local = event_loop.local();
    let (here, mut there) = sockets();
    let here = Arc::new(here);
    let heard = Rc::new(Cell::new(0));
    for fate in ["dropped", "modified and dropped", "removed", "awake", "at rest"] {
        let (rests, reads) = (Arc::clone(&here), Arc::clone(&here));
        let writable = Rc::new(Cell::new(0));
        let at_rest = local.add(rests, Interest::NONE, counting(&writable)).unwrap();
        let hears = Rc::clone(&heard);
        let reader = local.add(reads, Interest::READABLE, move |here, ready| {
            assert!(ready.readable && !ready.writable);
            hears.set(hears.get() + here.as_ref().read(&mut [0; 8]).unwrap_or(0));
        });
        let reader = reader.unwrap();
        heard.set(0);
        there.write_all(b"x").unwrap();
        assert!(event_loop.run_once(None).unwrap(), "{fate}");
        assert_eq!((heard.get(), writable.get()), (1, 0), "{fate}");
        let kept = match fate {
            "dropped" => {
                drop(at_rest);
                None
            }
            "modified and dropped" => {
                at_rest.modify(Interest::WRITABLE).unwrap();
                drop(at_rest);
                None
            }
            "removed" => {
                assert!(at_rest.remove().is_some());
                None
            }
            "awake" => {
                at_rest.modify(Interest::WRITABLE).unwrap();
                Some(at_rest)
            }
            _ => Some(at_rest),
        };
        there.write_all(b"yy").unwrap();
        for _ in 0..100 {
            if heard.get() < 3 {
                event_loop.run_once(Duration::from_millis(100)).unwrap();
            }
        }
        assert_eq!(heard.get(), 3, "{fate}");
        assert_eq!(writable.get() > 0, fate == "awake", "{fate}");
        drop(reader);
        if let Some(kept) = kept {
            kept.modify(Interest::WRITABLE).unwrap();
            writable.set(0);
            assert!(event_loop.run_once(None).unwrap());
            assert_eq!(writable.get(), 1, "{fate}: and it goes on without the other, too");
        }
    }
}

/// Sources of two loops, on one socket, are added, modified, dropped and removed at random. In each turn
/// each is told exactly of what it is watched for and what is there.
#[test]
fn each_source_on_a_descriptor_is_told_of_what_it_is_watched_for_itself() {
    use support::Rng;
    const INTERESTS: [Interest; 4] =
        [Interest::NONE, Interest::READABLE, Interest::WRITABLE, Interest::BOTH];
    type Told = Rc<Cell<Option<(bool, bool)>>>;

    let seed = std::process::id().into();
    let mut rng = Rng::new(seed);
    for _ in 0..20 {
        let loops = [EventLoop::new(), EventLoop::new()];
        let (here, mut there) = sockets();
        let here = Arc::new(here);
        let mut unread = false;
        let mut sources: Vec<(usize, Source<Arc<TcpStream>>, Interest, Told)> = Vec::new();
        for step in 0..100 {
            let interest = INTERESTS[rng.below(4) as usize];
            match rng.below(8) {
                0..3 if sources.len() < 6 => {
                    let (of, told) = (rng.below(2) as usize, Told::default());
                    let tells = Rc::clone(&told);
                    let added = loops[of].local().add(Arc::clone(&here), interest, move |_, is| {
                        assert!(tells.replace(Some((is.readable, is.writable))).is_none());
                    });
                    sources.push((of, added.unwrap(), interest, told));
                }
                3 | 4 if !sources.is_empty() => {
                    let at = rng.below(sources.len() as u64) as usize;
                    sources[at].1.modify(interest).unwrap();
                    sources[at].2 = interest;
                }
                5 if !sources.is_empty() => {
                    let at = rng.below(sources.len() as u64) as usize;
                    let (_, source, ..) = sources.swap_remove(at);
                    if rng.one_in(2) {
                        assert!(source.remove().is_some());
                    }
                }
                6 if !unread => {
                    there.write_all(b"x").unwrap();
                    here.peek(&mut [0]).or_else(wait_for(&here)).unwrap();
                    unread = true;
                }
                7 if unread => {
                    assert_eq!(here.as_ref().read(&mut [0; 8]).unwrap(), 1);
                    unread = false;
                }
                _ => {}
            }
            for event_loop in &loops {
                in_turn(event_loop);
            }
            for (n, (_, _, interest, told)) in sources.iter().enumerate() {
                let (wants_to_read, wants_to_write) = match *interest {
                    Interest::NONE => (false, false),
                    Interest::READABLE => (true, false),
                    Interest::WRITABLE => (false, true),
                    _ => (true, true),
                };
                let is = (wants_to_read && unread, wants_to_write);
                let expected = (is != (false, false)).then_some(is);
                assert_eq!(told.take(), expected, "seed {seed}, step {step}, source {n}");
            }
        }
    }
}

/// What was written is on its way: on this machine, but not at once.
fn wait_for(here: &TcpStream) -> impl FnOnce(std::io::Error) -> std::io::Result<usize> {
    move |_| {
        support::poll_until("the byte is there", || here.peek(&mut [0]).is_ok());
        Ok(1)
    }
}

/// The number is closed under one source, and is another socket's when the next source comes.
#[cfg(unix)]
#[test]
#[allow(unsafe_code)] // the number is given a new meaning behind the back of its owner
fn a_descriptor_that_means_something_new_is_watched_anew() {
    use std::os::fd::{AsRawFd, BorrowedFd};

    let event_loop = EventLoop::new();
    let (here, _there) = sockets();
    let (new, mut writes) = sockets();
    let number = here.as_raw_fd();
    // SAFETY: valid: `here` is open until the end of the test. Aliasing: it is a number.
    let same = || unsafe { BorrowedFd::borrow_raw(number) };
    let stale = event_loop.local().add(same(), Interest::READABLE, |_, _| ()).unwrap();
    // SAFETY: no pointers are passed. The number stays open all the time, and is `here`'s to close.
    assert_eq!(unsafe { libc::dup2(new.as_raw_fd(), number) }, number);
    drop(new); // the system has forgotten what the poller was asked
    let calls = Rc::new(Cell::new(0));
    let source = event_loop.local().add(same(), Interest::READABLE, counting(&calls)).unwrap();
    writes.write_all(b"x").unwrap();
    assert!(event_loop.run_once(None).unwrap());
    assert_eq!(calls.get(), 1);
    drop(stale);
    assert!(event_loop.run_once(None).unwrap());
    assert_eq!(calls.get(), 2, "and goes on when the stale one has gone");
    drop(source);
}

// ---- a loop inside another ------------------------------------------------------------------------

#[cfg(unix)]
mod inside {
    use std::os::fd::{AsFd, AsRawFd};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Whether the descriptor is readable, at the latest after this time.
    fn is_readable(event_loop: &EventLoop, within: Duration) -> bool {
        let fd = event_loop.as_fd().as_raw_fd();
        let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let millis = within.as_millis().try_into().unwrap();
        #[allow(unsafe_code)]
        // SAFETY: one `pollfd`, which lives until the call returns.
        let ready = unsafe { libc::poll(&raw mut polled, 1, millis) };
        ready == 1
    }

    /// As an outer loop does it: turns, for as long as the descriptor is readable.
    fn settle(event_loop: &EventLoop) -> usize {
        let mut called = 0;
        for _ in 0..1000 {
            if !is_readable(event_loop, Duration::ZERO) {
                return called;
            }
            called += usize::from(in_turn(event_loop));
        }
        panic!("it is readable for ever");
    }

    #[track_caller]
    fn wakes_for(event_loop: &EventLoop, what: &str) {
        assert!(is_readable(event_loop, support::PATIENCE), "{what}");
    }

    #[test]
    fn a_loop_is_readable_when_it_has_something_to_do_and_quiet_when_not() {
        let event_loop = EventLoop::builder().batch(2).build();
        let (local, handle) = (event_loop.local(), event_loop.handle());
        assert_eq!(settle(&event_loop), 0, "a new one has nothing to do");

        let calls = Rc::new(Cell::new(0));
        let counts = || {
            let calls = Rc::clone(&calls);
            move || calls.set(calls.get() + 1)
        };
        // What is asked for on this thread, while another loop runs: five, in batches of two.
        for _ in 0..5 {
            local.call_soon(counts());
        }
        wakes_for(&event_loop, "callbacks");
        settle(&event_loop);
        assert_eq!(calls.take(), 5);

        for _ in 0..3 {
            let spawned = local.spawn_local(async { 7 });
            wakes_for(&event_loop, "a future");
            settle(&event_loop);
            assert_eq!(spawned.join().unwrap(), 7);
        }

        // Posts, from here and from elsewhere; the second finds the first one's bell rung.
        let posts = handle.clone();
        let poster = thread::spawn(move || [1, 2].map(|n| posts.call(move || n).unwrap()));
        wakes_for(&event_loop, "a post");
        let posted = poster.join().unwrap();
        settle(&event_loop);
        assert_eq!(posted.map(|posted| posted.join().unwrap()), [1, 2]);

        let (reader, mut writer) = pipe();
        let (tell, told) = mpsc::channel();
        let source = local.add(reader, Interest::READABLE, move |mut reader: &PipeReader, _| {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            tell.send(byte[0]).unwrap();
        });
        let source = source.unwrap();
        assert_eq!(settle(&event_loop), 0);
        writer.write_all(b"ab").unwrap();
        wakes_for(&event_loop, "a source");
        settle(&event_loop);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), b"ab");
        drop(source);
        assert_eq!(settle(&event_loop), 0);

        handle.stop();
        wakes_for(&event_loop, "a stop");
        event_loop.run().unwrap(); // one turn, which takes the stop
        assert_eq!(settle(&event_loop), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_loop_is_readable_when_its_first_timer_is_due() {
        let event_loop = EventLoop::new();
        let local = event_loop.local();
        let calls = Rc::new(Cell::new(0));
        let due_after = |millis| {
            let calls = Rc::clone(&calls);
            local.call_later(Duration::from_millis(millis), move || calls.set(calls.get() + 1))
        };
        let far = due_after(3_600_000);
        assert_eq!(settle(&event_loop), 0);
        assert_eq!(event_loop.next_timer(), far.when());
        let near = due_after(20);
        settle(&event_loop);
        assert!(calls.get() == 1 || !is_readable(&event_loop, Duration::ZERO));
        wakes_for(&event_loop, "a timer");
        assert!(std::time::Instant::now() >= near.when().unwrap(), "not before its time");
        settle(&event_loop);
        assert_eq!(calls.get(), 1);
        // One that was cancelled rings no more; nor one that has been called.
        due_after(1).cancel();
        settle(&event_loop);
        assert!(!is_readable(&event_loop, Duration::from_millis(20)));
        // A run of its own sleeps although the alarm is set.
        let stops = local.clone();
        local.call_later(Duration::from_millis(5), move || stops.stop());
        event_loop.run().unwrap();
        assert_eq!(settle(&event_loop), 0);
    }

    /// Readable for ever, it would keep the outer loop awake.
    #[test]
    fn a_loop_that_is_closed_is_quiet_for_the_loop_around_it() {
        let event_loop = EventLoop::new();
        let (reader, mut writer) = pipe();
        let source = event_loop.local().add(reader, Interest::READABLE, |_, _| ()).unwrap();
        let handle = event_loop.handle();
        assert!(!is_readable(&event_loop, Duration::ZERO));
        writer.write_all(b"x").unwrap();
        handle.call_soon_threadsafe(|| ()).unwrap();
        assert!(is_readable(&event_loop, Duration::ZERO));
        event_loop.close();
        assert!(!is_readable(&event_loop, Duration::ZERO));
        handle.stop();
        assert!(handle.call_soon_threadsafe(|| ()).is_err());
        assert!(!is_readable(&event_loop, Duration::from_millis(2)));
        drop(source);
        let closed = EventLoop::new();
        closed.close();
        assert!(!is_readable(&closed, Duration::ZERO), "also asked for only then");
    }

    /// Posts of several threads to an inner loop, which is run by the outer one alone; and what the
    /// outer one waits for is the inner one's.
    #[test]
    fn an_outer_loop_runs_an_inner_one() {
        promptly("loops", || {
            let (outer, inner) = (EventLoop::new(), EventLoop::builder().batch(3).build());
            let handle = inner.handle();
            let local = inner.local();
            let run = |inner: &EventLoop, _| drop(inner.run_once(Duration::ZERO).map(drop));
            let inside = outer.local().add(inner, Interest::READABLE, run).unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            let posters: Vec<_> = (0..4)
                .map(|_| {
                    let (handle, ran) = (handle.clone(), Arc::clone(&ran));
                    thread::spawn(move || {
                        for n in 0..250 {
                            let ran = Arc::clone(&ran);
                            let work = move || ran.fetch_add(1, Ordering::Relaxed);
                            let posted = handle.call(work).unwrap();
                            if n % 50 == 0 {
                                posted.join().unwrap(); // it has to be awake for that
                            }
                        }
                    })
                })
                .collect();
            let all = Arc::clone(&ran);
            let sleeper = local.clone();
            let last = local.spawn_local(async move {
                while all.load(Ordering::Relaxed) < 1000 {
                    sleeper.sleep(Duration::from_millis(1)).await;
                }
                7
            });
            if cfg!(target_os = "linux") {
                assert!(outer.run_until(&last).unwrap(), "no deadlock: it is run inside");
                assert_eq!(last.join().unwrap(), 7);
            }
            posters.into_iter().for_each(|poster| poster.join().unwrap());
            drop(inside);
        });
    }

    /// A loop of somebody else's, which tells of edges.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_loop_runs_inside_of_tokio() {
        promptly("runtime", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                #[allow(unsafe_code)]
                // SAFETY: a loop has one descriptor, which is open until it is dropped.
                let inner = unsafe { tokio::io::unix::AsyncFd::register(EventLoop::new()) };
                let inner = inner.unwrap();
                let (handle, local) = (inner.get_ref().handle(), inner.get_ref().local());
                let slept = local.spawn_local({
                    let local = local.clone();
                    async move { local.sleep(Duration::from_millis(2)).await }
                });
                let answered = Arc::new(AtomicUsize::new(0));
                let counts = Arc::clone(&answered);
                let asks = thread::spawn(move || {
                    let ask = |n| {
                        let counts = Arc::clone(&counts);
                        let asked = handle.call(move || {
                            counts.fetch_add(1, Ordering::Relaxed);
                            n
                        });
                        asked.unwrap().join().unwrap()
                    };
                    (0..100).map(ask).sum::<u32>()
                });
                while answered.load(Ordering::Relaxed) < 100 || !slept.is_finished() {
                    let mut ready = inner.readable().await.unwrap();
                    ready.clear_ready();
                    while ready.get_inner().run_once(Duration::ZERO).unwrap() {}
                }
                assert_eq!(asks.join().unwrap(), 4950);
            });
        });
    }
}

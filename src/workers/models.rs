//! The queues and their room, under every interleaving that `loom` can find. A wake that is lost shows as
//! a deadlock.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::model::Builder;
use loom::thread;

use super::queues::{Next, Pushed, Queues};
use super::room::{NoRoom, Room};
use crate::deadline::Deadline;

/// A worker that takes so many things, in its seat, and then leaves the rest to others.
fn takes(queues: &Queues<u32>, seat: usize, many: usize) -> Vec<u32> {
    queues.begin(seat);
    let mut taken = Vec::new();
    while taken.len() < many {
        match queues.next(seat, true, None, |pushed| assert!(matches!(pushed, Pushed::Done))) {
            Next::Do(x) => taken.push(x),
            Next::Attend => {}
            Next::Retire | Next::End => break,
        }
    }
    taken
}

/// With so many preemptions at most: with three threads there are too many interleavings without a bound.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn hired(seats: usize) -> Arc<Queues<u32>> {
    let queues = Queues::new(seats, seats);
    (0..seats).for_each(|seat| assert!(queues.take_vacant(seat)));
    Arc::new(queues)
}

#[test]
fn a_push_wakes_a_worker_that_goes_to_sleep() {
    loom::model(|| {
        let queues = hired(1);
        let works = Arc::clone(&queues);
        let worker = thread::spawn(move || takes(&works, 0, 2));
        assert!(matches!(queues.push(1), Pushed::Done));
        assert!(matches!(queues.push_to(0, 2), Pushed::Done));
        let mut taken = worker.join().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

/// One is woken for what anybody may do, and finds something of its own: the other does the first. If it
/// takes the first after all, it gives the other something else to do.
#[test]
fn what_anybody_may_do_does_not_wait_for_a_worker_with_something_of_its_own() {
    explore(2, || {
        let queues = hired(2);
        let [first, second] = [0, 1].map(|seat| {
            let works = Arc::clone(&queues);
            thread::spawn(move || {
                let taken = takes(&works, seat, 1);
                if seat == 0 && taken == [1] {
                    assert!(matches!(works.push_to(1, 3), Pushed::Done));
                }
                taken
            })
        });
        assert!(matches!(queues.push(1), Pushed::Done));
        assert!(matches!(queues.push_to(0, 2), Pushed::Done));
        let taken = (first.join().unwrap()[0], second.join().unwrap()[0]);
        assert!(taken == (2, 1) || taken == (1, 3), "{taken:?}");
    });
}

/// What is put in as the queue is closed is taken by the worker, or by whoever put it in.
#[test]
fn nothing_is_left_behind_at_the_end() {
    explore(3, || {
        let queues = hired(1);
        let works = Arc::clone(&queues);
        let worker = thread::spawn(move || takes(&works, 0, usize::MAX).len());
        let closes = Arc::clone(&queues);
        let closer = thread::spawn(move || closes.close());
        let late = match queues.push(1) {
            Pushed::Late(late) => late.len(),
            Pushed::Done | Pushed::Start(_) => 0,
        };
        closer.join().unwrap();
        assert_eq!(worker.join().unwrap() + late, 1);
    });
}

#[test]
fn a_place_that_is_given_back_wakes_who_waits_for_it() {
    loom::model(|| {
        let room = Arc::new(Room::new(1));
        assert!(room.claim());
        let waits = Arc::clone(&room);
        let waiter = thread::spawn(move || {
            waits.enter_until(Deadline::NEVER).unwrap();
            waits.leave();
        });
        room.leave();
        waiter.join().unwrap();
        assert!(room.claim(), "and gives it back");
    });
}

/// Somebody gives up just as it is given the place: the next in line gets it.
#[test]
fn a_place_given_to_who_has_gone_is_the_next_ones() {
    loom::model(|| {
        let room = Arc::new(Room::new(1));
        assert!(room.claim());
        let waits = Arc::clone(&room);
        let waiter = thread::spawn(move || waits.enter_until(Deadline::NEVER).unwrap());
        {
            let mut goes = pin!(room.enter());
            let polled = goes.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Pending);
            room.leave();
        }
        waiter.join().unwrap();
        assert!(!room.claim());
    });
}

#[test]
fn a_close_sends_away_who_waits() {
    loom::model(|| {
        let room = Arc::new(Room::new(1));
        assert!(room.claim());
        let waits = Arc::clone(&room);
        let waiter = thread::spawn(move || waits.enter_until(Deadline::NEVER));
        room.close();
        assert_eq!(waiter.join().unwrap(), Err(NoRoom::Closed));
    });
}

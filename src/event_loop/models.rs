//! Posting, sleeping, waking and closing, under every interleaving that `loom` can find.
//!
//! ```text
//! RUSTFLAGS="--cfg sessile_loom" cargo test --release --lib models --target-dir target/loom
//! ```
//!
//! Mailbox and bell are the real ones. The owner is a loop's thread, reduced to a few lines: it takes
//! its post, and sleeps when there is none. A wake that is lost shows as a deadlock, a letter that is
//! delivered twice or never in the books.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

use loom::model::Builder;
use loom::thread;

use super::Woken;
use super::mailbox::{Inbox, Job, Mailbox, Posted, Refused};
use super::reach::Reach;

/// What became of each letter. Of the model, not of the protocol: `loom` does not see it, so it
/// orders nothing.
#[derive(Default)]
struct Books {
    run: [AtomicU32; 4],
    dropped: [AtomicU32; 4],
    order: std::sync::Mutex<Vec<usize>>,
}

struct Letter(usize, Arc<Books>, bool);

impl Letter {
    fn new(number: usize, books: &Arc<Books>) -> Self {
        Self(number, Arc::clone(books), false)
    }

    /// Handed back.
    fn is(mut self, number: usize) -> bool {
        self.2 = true;
        self.0 == number
    }
}

impl Job for Letter {
    fn run(mut self) {
        self.2 = true;
        self.1.run[self.0].fetch_add(1, Ordering::SeqCst);
        self.1.order.lock().unwrap().push(self.0);
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        if !self.2 {
            self.1.dropped[self.0].fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Books {
    fn run(&self) -> Vec<u32> {
        self.run.iter().map(|run| run.load(Ordering::SeqCst)).collect()
    }

    fn dropped(&self) -> Vec<u32> {
        self.dropped.iter().map(|dropped| dropped.load(Ordering::SeqCst)).collect()
    }

    fn order(&self) -> Vec<usize> {
        self.order.lock().unwrap().clone()
    }
}

fn model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// A letter is claimed, and not written yet: its poster goes first.
///
/// In `loom` an unpark that meets who yields is lost. So the owner gives itself one, and at worst looks
/// once more.
fn let_it_be_written() {
    thread::yield_now();
    thread::current().unpark();
}

/// The owner's loop: until it has run so many letters.
///
/// Who owns does not join: in `loom` an unpark that comes late would end the join.
fn own((reach, inbox): &(Arc<Reach>, Inbox), books: &Books, letters: usize) {
    loop {
        for _ in 0..inbox.count(8) {
            let Some(letter) = inbox.take() else {
                let_it_be_written();
                break;
            };
            reach.mailbox.give_room(1);
            letter.run();
        }
        if books.order().len() >= letters {
            return;
        }
        reach.sleep(inbox, None);
    }
}

#[test]
fn a_post_wakes_a_sleeper() {
    model(4, || {
        let (owner, books) = (Reach::new(None), Arc::new(Books::default()));
        let (posts, letter) = (Arc::clone(&owner.0), Letter::new(0, &books));
        thread::spawn(move || assert!(posts.post(letter).is_ok()));
        own(&owner, &books, 1);
        assert_eq!(books.run(), [1, 0, 0, 0]);
    });
}

/// Two threads post these letters; the owner gets each once, and those of a thread in their order.
fn two_posters(preemptions: usize, letters: [&'static [usize]; 2]) {
    model(preemptions, move || {
        let (owner, books) = (Reach::new(None), Arc::new(Books::default()));
        for numbers in letters {
            let (reach, books) = (Arc::clone(&owner.0), Arc::clone(&books));
            thread::spawn(move || {
                for number in numbers {
                    assert!(reach.post(Letter::new(*number, &books)).is_ok());
                }
            });
        }
        let all = letters.concat();
        own(&owner, &books, all.len());
        assert!(all.iter().all(|number| books.run()[*number] == 1));
        for numbers in letters {
            let order: Vec<_> = books.order().into_iter().filter(|n| numbers.contains(n)).collect();
            assert_eq!(order, numbers);
        }
    });
}

/// With two places in a block, either thread may be the one to bring the next along.
#[test]
fn two_posters_wake_a_sleeper_and_keep_their_order() {
    two_posters(3, [&[0, 1], &[2]]);
}

/// The owner takes letters meanwhile, so that the first block may be the next but one: for a poster
/// that has not looked since, too.
#[test]
fn a_block_that_comes_round_again_is_claimed_by_old_news() {
    two_posters(2, [&[0, 1, 2], &[3]]);
}

/// The owner sleeps again after the first: a wake of then must not do for now.
#[test]
fn a_wake_belongs_to_its_sleep() {
    model(3, || {
        let (owner, books) = (Reach::new(None), Arc::new(Books::default()));
        let (posts, owns) = (Arc::clone(&owner.0), Arc::clone(&books));
        thread::spawn(move || {
            assert!(posts.post(Letter::new(0, &owns)).is_ok());
            assert!(posts.post(Letter::new(1, &owns)).is_ok());
        });
        own(&owner, &books, 1);
        own(&owner, &books, 2);
        assert_eq!(books.order(), [0, 1]);
    });
}

#[test]
fn a_letter_that_meets_the_close_is_run_or_dropped_or_handed_back() {
    model(3, || {
        let ((reach, inbox), books) = (Reach::new(None), Arc::new(Books::default()));
        let posters = [0, 1].map(|number| {
            let (reach, letter) = (Arc::clone(&reach), Letter::new(number, &books));
            thread::spawn(move || match reach.post(letter) {
                Ok(_) => 0,
                Err(Refused::Closed(letter)) => u32::from(letter.is(number)),
                Err(Refused::Full(_)) => unreachable!("there is no limit"),
            })
        });
        if let Some(letter) = inbox.take() {
            letter.run();
        }
        drop(inbox.close());
        assert!(reach.mailbox.is_closed());
        assert_eq!((inbox.count(8), inbox.close().count()), (0, 0), "closed, and it stays so");
        assert!(reach.mailbox.is_closed());
        let handed_back = posters.map(|poster| poster.join().unwrap());
        for number in [0, 1] {
            let ends = books.run()[number] + books.dropped()[number] + handed_back[number];
            assert_eq!(ends, 1);
        }
        assert!(matches!(reach.post(Letter::new(2, &books)), Err(Refused::Closed(_))));
    });
}

/// What asks for attention has no letter: a stop, a future's wake, an instance ordered closed.
#[test]
fn a_stop_wakes_a_sleeper() {
    model(4, || {
        let (reach, inbox) = Reach::new(None);
        let stops = Arc::clone(&reach);
        thread::spawn(move || stops.stop());
        while !reach.take_stop() {
            reach.sleep(&inbox, None);
            reach.take_attention();
        }
    });
}

/// The loop of `block_on`: it polls what was woken, and sleeps over no wake.
#[test]
fn a_wake_of_what_is_blocked_on_wakes_a_sleeper() {
    model(4, || {
        let (reach, inbox) = Reach::new(None);
        let is_set = crate::sync::AtomicBool::new(false);
        let woken = Arc::new(Woken { reach: Arc::clone(&reach), is_set });
        let wakes = Arc::clone(&woken);
        thread::spawn(move || wakes.wake());
        while !woken.is_set.swap(false, Ordering::AcqRel) {
            reach.sleep(&inbox, None);
            reach.take_attention();
        }
    });
}

#[test]
fn a_post_and_a_woken_task_at_once_are_both_seen() {
    model(3, || {
        let ((reach, inbox), books) = (Reach::new(None), Arc::new(Books::default()));
        let (posts, letter) = (Arc::clone(&reach), Letter::new(0, &books));
        thread::spawn(move || assert!(posts.post(letter).is_ok()));
        let wakes = Arc::clone(&reach);
        thread::spawn(move || wakes.task_woken(7));
        let mut woken = Vec::new();
        loop {
            match inbox.take() {
                Some(letter) => letter.run(),
                None if inbox.count(8) > 0 => let_it_be_written(),
                None => {}
            }
            if reach.take_attention() {
                woken.extend(reach.take_woken());
            }
            if woken == [7] && books.order() == [0] {
                break;
            }
            reach.sleep(&inbox, None);
        }
    });
}

/// One system call for each sleep, and none while the owner is awake. (One that has announced its
/// sleep, and found post, may be woken for nothing.)
#[test]
fn two_posters_wake_a_sleeper_once() {
    model(3, || {
        let ((mailbox, inbox), books) = (Mailbox::new(None), Arc::new(Books::default()));
        let posters = [0, 1].map(|number| {
            let (mailbox, letter) = (Arc::clone(&mailbox), Letter::new(number, &books));
            thread::spawn(move || {
                u32::from(mailbox.post(letter).is_ok_and(|it| it == Posted::Wake))
            })
        });
        let sleeps = u32::from(inbox.fall_asleep());
        let wakes: u32 = posters.map(|poster| poster.join().unwrap()).iter().sum();
        assert!(wakes <= 1 && sleeps <= wakes, "{sleeps} sleeps, {wakes} wakes");
        mailbox.wake_up();
        while inbox.take().is_some() {}
        let posted = mailbox.post(Letter::new(2, &books));
        assert!(posted.is_ok_and(|it| it == Posted::Seen), "it is awake");
    });
}

#[test]
fn a_bounded_mailbox_takes_no_more_and_forgets_no_room() {
    model(3, || {
        let ((reach, inbox), books) = (Reach::new(Some(1)), Arc::new(Books::default()));
        let posters = [0, 1].map(|number| {
            let (reach, letter) = (Arc::clone(&reach), Letter::new(number, &books));
            thread::spawn(move || match reach.post(letter) {
                Ok(_) => 1,
                Err(Refused::Full(letter)) => u32::from(!letter.is(number)),
                Err(Refused::Closed(_)) => unreachable!("nobody closes it"),
            })
        });
        let taken = usize::from(inbox.take().is_some());
        assert!(taken <= 1);
        reach.mailbox.give_room(taken);
        let posted: u32 = posters.map(|poster| poster.join().unwrap()).iter().sum();
        assert!(posted >= 1);
        let left = usize::from(inbox.take().is_some()) + inbox.count(8);
        assert_eq!((taken + left) as u32, posted);
        assert!(left <= 1);
        reach.mailbox.give_room(left);
        assert!(reach.post(Letter::new(2, &books)).is_ok(), "there is room again");
    });
}

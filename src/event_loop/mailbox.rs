//! Where others leave work for an owner.
//!
//! Letters lie in blocks of places, and each block leads to the next. `tail` is one word: a block, the
//! next free place in it, and whether the mailbox is closed. A poster claims a place by moving `tail`
//! on, by compare-exchange, and then writes its letter there. Who claims the last place of a block
//! has brought the next one along. The owner goes from place to place, and takes each letter out
//! once it is written. A job of a few words lies in its place itself, so that most posts allocate
//! nothing.
//!
//! # Whose a place is
//!
//! ```text
//! to post    1 claim: `tail` moves on    2 write the job    3 `kind` := its kind
//! to take    1 read `kind`; if there is none, it is not written yet
//!            2 move the job out          3 `kind` := none, move on
//! ```
//!
//! Only one poster claims a place, since a compare-exchange succeeds once from each value of `tail`.
//! It has it to itself until it stores `kind`, by which the owner sees the job. Who claimed the last
//! place links the next block before that. So once the owner has taken the last letter of a block,
//! nobody touches it any more, and it may be used again.
//!
//! A poster looks into no block before it has claimed a place there. `tail` may have left a block and
//! have come back to it between its read and its exchange; the exchange then claims a place that is
//! free now.
//!
//! # Wake
//!
//! ```text
//! to post    1 claim, and write          2 read `sleep`;
//!                                          if it says asleep, change it to woken and wake
//! to sleep   1 `sleep` := asleep         2 read `tail`; if it has moved on, stay awake
//! to wake up 1 `sleep` := awake
//! ```
//!
//! All of it is sequentially consistent, so in that one order either the claim comes before the
//! owner's read of `tail`, and it stays awake; or the read came first, and with it `asleep` came
//! before the poster's read, which wakes it. No wake is lost.
//!
//! The owner stays awake for a place that is claimed, if it is not written yet: the poster is a few
//! instructions away from it. Meanwhile the owner does what else there is.
//!
//! Only who changes asleep to woken makes the system call. So there is one for each sleep, and none
//! while the owner is awake.
//!
//! # The end
//!
//! Closing marks `tail`, and the claims that came before are the letters there are; a poster that
//! comes later finds the mark and hands its work back. There is no moment between.
//!
//! In a forked child a mailbox counts as closed, and what is in it is left alone.

#![allow(unsafe_code)] // letters are told apart by function pointers, and blocks linked by raw ones

use std::array;
use std::cell::Cell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::contain::drop_each;
use crate::fork;
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, UnsafeCell, in_one_order, thread};

/// Work that can be posted.
pub(crate) trait Job: Send + 'static {
    /// Does it. On the owner.
    fn run(self);
}

/// A large job is posted in a box.
impl<J: Job> Job for Box<J> {
    fn run(self) {
        (*self).run();
    }
}

/// A job in the post, whatever its kind. Dropped, it drops the job. `Send`, as jobs are.
pub(crate) struct Letter {
    kind: &'static Kind,
    words: Words,
}

/// A job, or a box of it.
type Words = [MaybeUninit<usize>; WORDS];

/// With them a place is half a cache line.
const WORDS: usize = 3;

struct Kind {
    /// Moves the job out of the words, and runs it or drops it.
    open: unsafe fn(&Words, run: bool),
}

impl Letter {
    pub(crate) fn new<J: Job>(job: J) -> Self {
        if fits::<J>() { Self::holding(job) } else { Self::holding(Box::new(job)) }
    }

    fn holding<J: Job>(job: J) -> Self {
        const { assert!(fits::<Box<J>>()) };
        assert!(fits::<J>());
        let mut words = [MaybeUninit::uninit(); WORDS];
        // SAFETY: valid: it fits, in size and alignment. Aliasing: the words are our own.
        unsafe { words.as_mut_ptr().cast::<J>().write(job) };
        Self { kind: const { &Kind { open: open::<J> } }, words }
    }

    pub(crate) fn run(self) {
        let letter = ManuallyDrop::new(self);
        // SAFETY: valid: `open` belongs to this letter's kind, and is called once: `self` is gone.
        // Aliasing: the words are our own.
        unsafe { (letter.kind.open)(&letter.words, true) }
    }

    /// The job back, from a letter that was made of one of this kind.
    ///
    /// # Safety
    ///
    /// The letter was made by `Letter::new::<J>`.
    unsafe fn unwrap<J: Job>(self) -> J {
        let letter = ManuallyDrop::new(self);
        let words = letter.words.as_ptr();
        // SAFETY: valid: by the caller's word there is a `J` or a box of it, and `self` is gone.
        // Aliasing: the words are our own.
        unsafe {
            if fits::<J>() { words.cast::<J>().read() } else { *words.cast::<Box<J>>().read() }
        }
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        // SAFETY: as in `run`; this is the one call.
        unsafe { (self.kind.open)(&self.words, false) }
    }
}

const fn fits<J>() -> bool {
    size_of::<J>() <= size_of::<Words>() && align_of::<J>() <= align_of::<Words>()
}

/// # Safety
///
/// There is a `J` in the words, which nobody has opened yet.
unsafe fn open<J: Job>(words: &Words, run: bool) {
    // SAFETY: valid: by the caller's word. Aliasing: it is only read, and not used again.
    let job = unsafe { words.as_ptr().cast::<J>().read() };
    if run { job.run() } else { drop(job) }
}

/// Where one letter lies.
struct Place {
    /// The letter's; null until it is written.
    kind: AtomicPtr<Kind>,
    words: UnsafeCell<Words>,
}

/// In a model there are few, so that it comes to the last.
const PLACES: usize = if cfg!(sessile_loom) { 2 } else { 31 };

/// Aligned, so that an address leaves the lowest six bits to the number of a place and to `CLOSED`.
#[repr(align(64))]
struct Block {
    places: [Place; PLACES],
    next: AtomicPtr<Block>,
}

impl Block {
    fn new() -> Box<Self> {
        let place = |_| Place {
            kind: AtomicPtr::new(ptr::null_mut()),
            words: UnsafeCell::new([MaybeUninit::uninit(); WORDS]),
        };
        Box::new(Self { places: array::from_fn(place), next: AtomicPtr::new(ptr::null_mut()) })
    }
}

const CLOSED: usize = 32;

/// A block, and a place in it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Spot {
    block: *mut Block,
    place: usize,
}

impl Spot {
    /// Of a value of `tail`; and whether the mailbox is closed.
    fn of(tail: *mut Block) -> (Self, bool) {
        let bits = tail.addr() % align_of::<Block>();
        let block = tail.map_addr(|addr| addr - bits);
        (Self { block, place: bits % CLOSED }, bits >= CLOSED)
    }

    fn is_last(self) -> bool {
        self.place == PLACES - 1
    }
}

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const WOKEN: u32 = 2;

/// Everybody's side.
pub(crate) struct Mailbox {
    tail: Tail,
    sleep: AtomicU32,
    /// How many letters have been posted and not been taken out yet, if there is a limit.
    waiting: AtomicUsize,
    capacity: Option<usize>,
    /// Of the process in which it was made.
    generation: u32,
    /// A block that was used and is empty again, if there is one.
    spare: AtomicPtr<Block>,
}

/// In a cache line of its own, for all posters write it.
#[repr(align(64))]
struct Tail(AtomicPtr<Block>);

/// Why a job was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<J> {
    Full(J),
    Closed(J),
}

/// Whether the poster has to wake the owner.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Posted {
    Seen,
    Wake,
}

impl Mailbox {
    /// A mailbox, and its owner's side of it.
    pub(crate) fn new(capacity: Option<usize>) -> (Arc<Self>, Inbox) {
        let block = Box::into_raw(Block::new());
        let mailbox = Arc::new(Self {
            tail: Tail(AtomicPtr::new(block)),
            sleep: AtomicU32::new(AWAKE),
            waiting: AtomicUsize::new(0),
            capacity,
            generation: fork::generation(),
            spare: AtomicPtr::new(ptr::null_mut()),
        });
        let next = Cell::new(Spot { block, place: 0 });
        (Arc::clone(&mailbox), Inbox { mailbox, next })
    }

    /// Posts a job. After `Posted::Wake` the caller wakes the owner.
    pub(crate) fn post<J: Job>(&self, job: J) -> Result<Posted, Refused<J>> {
        if self.is_inherited() {
            return Err(Refused::Closed(job));
        }
        if !self.make_room() {
            // Letters that a close has dropped keep their room: it is no use waiting for that.
            return Err(if self.is_closed() { Refused::Closed(job) } else { Refused::Full(job) });
        }
        // Made before the claim: to box a job may take a while.
        let letter = Letter::new(job);
        match self.push(letter) {
            Ok(()) => Ok(self.rouse()),
            Err(letter) => {
                self.give_room(1);
                // SAFETY: it was made of a `J` a moment ago.
                Err(Refused::Closed(unsafe { letter.unwrap() }))
            }
        }
    }

    /// The letter comes back if the mailbox is closed.
    fn push(&self, letter: Letter) -> Result<(), Letter> {
        let mut tail = self.tail.0.load(Ordering::Acquire);
        let mut brought = None;
        let spot = loop {
            let (spot, closed) = Spot::of(tail);
            if closed {
                self.put_by(brought);
                return Err(letter);
            }
            let next = if spot.is_last() {
                ptr::from_mut(&mut **brought.get_or_insert_with(|| self.fresh_block()))
            } else {
                tail.map_addr(|addr| addr + 1)
            };
            let order = (Ordering::SeqCst, Ordering::Acquire);
            match self.tail.0.compare_exchange_weak(tail, next, order.0, order.1) {
                // What the exchange has returned, not what was loaded: the block may have been freed
                // meanwhile, and another have come to lie at its address. The pointers are equal then,
                // and only the new one may be followed.
                Ok(claimed) => break Spot::of(claimed).0,
                Err(now) => tail = now,
            }
        };
        in_one_order(); // the claim, not the writing, and the look at `sleep`
        // SAFETY: valid: the owner gives a block up only when it has taken what was claimed there, and
        // this letter it has not. Aliasing: everybody has shared access only.
        let block = unsafe { &*spot.block };
        if spot.is_last() {
            let next = brought.take().expect("brought along by whoever claims the last place");
            block.next.store(Box::into_raw(next), Ordering::Release);
        }
        let Letter { kind, words } = *ManuallyDrop::new(letter);
        let place = &block.places[spot.place];
        // SAFETY: valid: memory of the place. Aliasing: it is the claimant's until `kind` is stored.
        place.words.with_mut(|to| unsafe { to.write(words) });
        place.kind.store(ptr::from_ref(kind).cast_mut(), Ordering::Release);
        self.put_by(brought);
        Ok(())
    }

    /// Says whether the owner is asleep and the caller is the one to wake it. What it is woken for is
    /// there by now, `in_one_order` with this.
    pub(crate) fn rouse(&self) -> Posted {
        let order = Ordering::SeqCst;
        let asleep = self.sleep.load(order) == ASLEEP
            && self.sleep.compare_exchange(ASLEEP, WOKEN, order, order).is_ok();
        if asleep { Posted::Wake } else { Posted::Seen }
    }

    fn make_room(&self) -> bool {
        let Some(capacity) = self.capacity else { return true };
        let more = |waiting| (waiting < capacity).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Letters have been run or dropped: others may take their room.
    pub(crate) fn give_room(&self, letters: usize) {
        if self.capacity.is_some() {
            self.waiting.fetch_sub(letters, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_inherited() || Spot::of(self.tail.0.load(Ordering::Acquire)).1
    }

    /// Whether this is a forked child, and the mailbox its parent's: nobody takes anything out here, and
    /// who was posting at the moment of the fork will never be done with it.
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }

    /// The owner is up again, for whatever reason.
    pub(crate) fn wake_up(&self) {
        self.sleep.store(AWAKE, Ordering::SeqCst);
    }

    // ---- blocks -------------------------------------------------------------------------------

    fn fresh_block(&self) -> Box<Block> {
        self.swap_spare(None).unwrap_or_else(Block::new)
    }

    /// Keeps an empty block, if it is one, for when the next is wanted: it is warm.
    fn put_by(&self, block: Option<Box<Block>>) {
        if block.is_some() {
            drop(self.swap_spare(block));
        }
    }

    fn swap_spare(&self, block: Option<Box<Block>>) -> Option<Box<Block>> {
        let new = block.map_or(ptr::null_mut(), Box::into_raw);
        let old = NonNull::new(self.spare.swap(new, Ordering::AcqRel));
        // SAFETY: valid: it came from `Box::into_raw`. Aliasing: each swap hands it to one.
        old.map(|old| unsafe { Box::from_raw(old.as_ptr()) })
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if self.is_inherited() {
            return; // left behind, as it is
        }
        drop(self.swap_spare(None));
    }
}

/// The owner's side. Dropped, it closes the mailbox and drops what is there.
pub(crate) struct Inbox {
    mailbox: Arc<Mailbox>,
    /// Where the next letter will be. Its block is the owner's to give up.
    next: Cell<Spot>,
}

impl Inbox {
    fn block(&self) -> &Block {
        // SAFETY: valid: only `step` gives a block up, and it has left it by then; what is borrowed
        // here is used no longer than in the functions below. Aliasing: everybody has shared access
        // only.
        unsafe { &*self.next.get().block }
    }

    /// Whether the next letter is written. Then it is counted, too.
    pub(crate) fn has_post(&self) -> bool {
        let place = &self.block().places[self.next.get().place];
        !place.kind.load(Ordering::Acquire).is_null()
    }

    /// How many letters there are, written or about to be; if there are more than `most`, any number
    /// above it.
    pub(crate) fn count(&self, most: usize) -> usize {
        let (end, _) = Spot::of(self.mailbox.tail.0.load(Ordering::Acquire));
        let Spot { mut block, place } = self.next.get();
        let mut places = 0;
        while block != end.block && places <= most + place {
            places += PLACES;
            // SAFETY: valid: only the owner gives blocks up, one after the other, and it stands at the
            // first of these. Aliasing: everybody has shared access only.
            let next = unsafe { &*block }.next.load(Ordering::Acquire);
            if next.is_null() {
                return places - place; // its last place is claimed, but not written yet
            }
            block = next;
        }
        if block == end.block {
            places += end.place;
        }
        places - place
    }

    /// The next letter, if it is written.
    pub(crate) fn take(&self) -> Option<Letter> {
        let spot = self.next.get();
        let place = &self.block().places[spot.place];
        let kind = place.kind.load(Ordering::Acquire);
        // SAFETY: valid: it came from a `&'static Kind`.
        let kind: &'static Kind = unsafe { kind.as_ref() }?;
        // SAFETY: valid: `kind` is stored after the words. Aliasing: the place is the owner's now.
        let words = place.words.with_mut(|from| unsafe { *from });
        place.kind.store(ptr::null_mut(), Ordering::Relaxed);
        self.step();
        Some(Letter { kind, words })
    }

    /// Goes on to the next place. The letter of this one has been taken.
    fn step(&self) {
        let spot = self.next.get();
        if !spot.is_last() {
            return self.next.set(Spot { place: spot.place + 1, ..spot });
        }
        // Linked before the last letter was written.
        let next = self.block().next.load(Ordering::Acquire);
        self.next.set(Spot { block: next, place: 0 });
        // SAFETY: valid: blocks come from `Box::into_raw`. Aliasing: all its letters have been taken,
        // so whoever wrote them is through with it, and `tail` has moved on.
        let block = unsafe { Box::from_raw(spot.block) };
        block.next.store(ptr::null_mut(), Ordering::Relaxed);
        self.mailbox.put_by(Some(block));
    }

    /// Announces that the owner will sleep. `false`: there is work, it must not.
    #[must_use]
    pub(crate) fn fall_asleep(&self) -> bool {
        let Mailbox { sleep, tail, .. } = &*self.mailbox;
        // An exchange, which on most machines such a store is anyway: it comes right after what a late
        // waker has left there, and `loom` does not have to guess.
        sleep.swap(ASLEEP, Ordering::SeqCst);
        in_one_order();
        let empty = Spot::of(tail.0.load(Ordering::SeqCst)).0 == self.next.get();
        if !empty {
            sleep.store(AWAKE, Ordering::SeqCst);
        }
        empty
    }

    /// No more post, ever. What there was comes out, oldest first.
    pub(crate) fn close(&self) -> Letters<'_> {
        let tail = &self.mailbox.tail.0;
        let mut now = tail.load(Ordering::Relaxed);
        while !Spot::of(now).1 {
            let closed = now.map_addr(|addr| addr | CLOSED);
            match tail.compare_exchange_weak(now, closed, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => now = closed,
                Err(other) => now = other,
            }
        }
        Letters { inbox: self, end: Spot::of(now).0 }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if self.mailbox.is_inherited() {
            return; // its letters are the parent's; and one that was claimed might never be written
        }
        drop(self.close());
        // SAFETY: valid: blocks come from `Box::into_raw`. Aliasing: nobody will claim a place there
        // any more, and what was claimed has been taken.
        drop(unsafe { Box::from_raw(self.next.get().block) });
    }
}

/// What is left in a mailbox that is closed, oldest first. Dropped, it drops them.
pub(crate) struct Letters<'a> {
    inbox: &'a Inbox,
    end: Spot,
}

impl Iterator for Letters<'_> {
    type Item = Letter;

    fn next(&mut self) -> Option<Letter> {
        while self.inbox.next.get() != self.end {
            if let Some(letter) = self.inbox.take() {
                return Some(letter);
            }
            thread::yield_now(); // it is claimed: the poster is about to write it
        }
        None
    }
}

impl Drop for Letters<'_> {
    fn drop(&mut self) {
        // One by one: a job whose destructor panics must not keep the others from being told.
        drop_each(self);
    }
}

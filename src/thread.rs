//! This thread's instances: finding them fast, and what happens to them when the thread ends.
//!
//! Every thread has a table of pointers, one place for each pool of the process. A thread-local without
//! a destructor leads to it, so that reaching it is one address computation; the places are handed out
//! by [`Place`], which also remembers their type.
//!
//! At the thread's exit one destructor, registered with the first instance, closes what is left,
//! newest first. From then on the thread has no instances and gets none: [`enter`] refuses.
//!
//! Another thread can ask this one to look after its instances: [`ThisThread::nudge`] empties the table
//! from afar, by its length, so that the owner's next look-up of *anything* misses and takes the slow
//! path through [`enter`], which attends to them. The fast path pays nothing for this.
//!
//! What is written from afar is on the heap, and whoever may write it owns it too. So nothing depends
//! on our destructor running: a thread that begins to use pools when its thread-locals are gone and
//! its last round of other destructors has come ends unseen. What it has made then is leaked, as is
//! its table; it stays on the books, and may be closed from afar if it is `Send`.

#![allow(unsafe_code)] // pointers in thread-locals

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crate::contain::contain;
use crate::fence;
use crate::fork::{PerProcess, generation};
use crate::id::{InstanceId, Owner};
use crate::slot::{Granted, Mode, Words, vacant};

/// An instance as its thread keeps it. All of this runs on the owner.
pub(crate) trait Resident: Send + Sync + 'static {
    fn id(&self) -> InstanceId;

    /// What the fast path looks at. They stand at the very beginning of the resident.
    fn words(&self) -> &Words;

    /// Closes the instance if it is idle, and was revoked, or somebody waits for its room. Says whether
    /// it is gone from here.
    fn attend(self: Arc<Self>) -> bool;

    /// The thread ends: closes the instance now, or has its last borrow do it.
    fn leave(self: Arc<Self>);
}

// ---- the table --------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has happened here yet.
    Fresh,
    /// The exit guard is registered.
    Open,
    /// The thread ends, or has gone through our part of its end.
    Leaving,
}

struct Local {
    phase: Cell<Phase>,
    /// `Owner::number` of this thread; 0 before it has one.
    number: Cell<u64>,
    /// The fast half: where the instances are. Leads to `Table::places`, or, without any, to
    /// [`NOWHERE`].
    places: Cell<*const AtomicPtr<Words>>,
    /// The slow half. `ManuallyDrop`, so that the thread-local needs no destructor and can be
    /// reached in everybody else's; [`leave`] empties it.
    table: RefCell<ManuallyDrop<Table>>,
}

/// The words of a thread's residents, by place; `vacant` where there is none. Before them stands how
/// many of them the fast path may look at: all, or, after a nudge, none. A number beside pointers, so
/// that the fast path has one address to find.
type Places = Arc<[AtomicPtr<Words>]>;

/// No places at all.
static NOWHERE: [AtomicPtr<Words>; 1] = [AtomicPtr::new(ptr::null_mut())];

/// Lets the fast path look at so many places.
fn set_visible(places: &[AtomicPtr<Words>], count: usize) {
    places[0].store(ptr::without_provenance_mut(count), Ordering::SeqCst);
}

impl Local {
    /// Opens the fast path, if this machine may have one at all.
    fn show(table: &Table) {
        let Some(places) = &table.places else { return };
        let all = if fence::is_light_enough() { places.len() - 1 } else { 0 };
        set_visible(places, all);
        // A nudge sets `nudged`, then the number to zero. One that came before our store, and which
        // nobody has attended to, must not be undone by it.
        if table.me.as_ref().is_some_and(|me| me.nudged.load(Ordering::SeqCst)) {
            set_visible(places, 0);
        }
    }

    /// Closes the fast path for good, or until there are places again.
    fn shut(&self) {
        self.places.set(NOWHERE.as_ptr());
    }
}

struct Table {
    places: Option<Places>,
    residents: Vec<Option<Arc<dyn Resident>>>,
    me: Option<Arc<ThisThread>>,
}

impl Table {
    const fn new() -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self { places: None, residents: Vec::new(), me: None })
    }

    /// What stands in a place, for the fast path.
    fn enter(&self, index: usize, words: &Words) {
        let places = self.places.as_ref().expect("there is a resident, so there are places");
        places[1 + index].store(ptr::from_ref(words).cast_mut(), Ordering::Relaxed);
    }

    /// Makes places, with none of them to be seen yet.
    fn grow(&mut self, count: usize) -> *const AtomicPtr<Words> {
        let before = self.places.iter().flat_map(|places| places[1..].iter());
        let before = before.map(|words| words.load(Ordering::Relaxed));
        let vacant = std::iter::repeat_with(|| ptr::from_ref(vacant()).cast_mut());
        let words = before.chain(vacant).take(count);
        let places: Places =
            std::iter::once(ptr::null_mut()).chain(words).map(AtomicPtr::new).collect();
        if let Some(me) = &self.me {
            *me.places.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&places));
        }
        self.residents.resize_with(count, || None);
        self.places.insert(places).as_ptr()
    }
}

/// A thread as others see it.
pub(crate) struct ThisThread {
    pub(crate) owner: Owner,
    nudged: AtomicBool,
    /// The thread's places, as long as it has any.
    places: Mutex<Option<Places>>,
    /// Wakes the loop that runs on the thread, if one does.
    bell: Mutex<Option<Waker>>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            phase: Cell::new(Phase::Fresh),
            number: Cell::new(0),
            places: Cell::new((&raw const NOWHERE).cast()),
            table: RefCell::new(Table::new()),
        }
    };
    static EXIT: Exit = const { Exit };
}

/// Its destructor is the thread's exit.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        leave();
    }
}

// ---- places -----------------------------------------------------------------------------------

static NEXT_PLACE: AtomicUsize = AtomicUsize::new(0);
// A child forgets the free places, not the high-water mark: it leaks numbers, and reuses none that
// an inherited pool still has.
static FREE_PLACES: PerProcess<Mutex<Vec<usize>>> = PerProcess::new(|| Mutex::new(Vec::new()));

/// One place in every thread's table, for residents of type `I`.
///
/// As long as it lives, nobody else has the same place. Whatever stands in a table keeps its `Place`
/// alive (a resident owns its pool, which owns the place), so a place that is given out again is
/// empty in every thread.
pub(crate) struct Place<I> {
    index: usize,
    of: PhantomData<fn() -> I>,
}

/// A copy of a place's number, for the fast path.
pub(crate) struct PlaceIndex<I> {
    index: usize,
    of: PhantomData<fn() -> I>,
}

impl<I> Clone for PlaceIndex<I> {
    fn clone(&self) -> Self {
        Self { index: self.index, of: PhantomData }
    }
}

impl<I: Resident> Place<I> {
    pub(crate) fn new() -> Self {
        let free = FREE_PLACES.get().lock().unwrap_or_else(PoisonError::into_inner).pop();
        let index = free.unwrap_or_else(|| NEXT_PLACE.fetch_add(1, Ordering::Relaxed));
        Self { index, of: PhantomData }
    }

    pub(crate) fn index(&self) -> PlaceIndex<I> {
        PlaceIndex { index: self.index, of: PhantomData }
    }

    /// This thread's resident of this place.
    pub(crate) fn resident(&self, _: &Entered) -> Option<Arc<I>> {
        LOCAL.with(|local| {
            let table = local.table.borrow();
            let resident = table.residents.get(self.index)?.as_ref()?;
            let resident = Arc::into_raw(Arc::clone(resident)).cast::<I>();
            // SAFETY: valid: it comes from `Arc::into_raw`, of an `I`: only `move_in` of the one
            // `Place<I>` with this index puts residents here. Aliasing: shared, as any `Arc`.
            Some(unsafe { Arc::from_raw(resident) })
        })
    }

    /// Moves a resident in. The place must be empty.
    pub(crate) fn move_in(&self, resident: Arc<I>, _: &Entered) {
        LOCAL.with(|local| {
            let mut table = local.table.borrow_mut();
            if table.residents.len() <= self.index {
                // Room for a few more pools; never fewer than there are.
                let places = table.grow((self.index + 1).next_multiple_of(8));
                local.places.set(places);
                Local::show(&table);
            }
            debug_assert!(table.residents[self.index].is_none(), "one resident for one place");
            let words = resident.words();
            assert!(
                ptr::eq(words, Arc::as_ptr(&resident).cast()),
                "a resident begins with its words"
            );
            table.enter(self.index, words);
            table.residents[self.index] = Some(resident);
        });
    }

    /// Moves the resident out if it is still the one with this id.
    pub(crate) fn move_out(&self, id: InstanceId) {
        let gone = LOCAL.with(|local| move_out(local, self.index, id));
        // Dropped with no borrow of the table: it may be the last reference to a pool.
        drop(gone);
    }
}

fn move_out(local: &Local, index: usize, id: InstanceId) -> Option<Arc<dyn Resident>> {
    let mut table = local.table.borrow_mut();
    let there = table.residents.get_mut(index)?;
    if there.as_ref()?.id() != id {
        return None;
    }
    let gone = there.take();
    table.enter(index, vacant());
    gone
}

impl<I> Drop for Place<I> {
    fn drop(&mut self) {
        FREE_PLACES.get().lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
    }
}

impl<I: Resident> PlaceIndex<I> {
    /// Borrows this thread's resident, on the fast path: it may miss one that is there.
    ///
    /// What is returned stays where it is while it is borrowed.
    #[inline(always)]
    pub(crate) fn try_borrow(&self, mode: Mode) -> Option<(NonNull<I>, Granted)> {
        LOCAL.with(|local| {
            let places = local.places.get();
            // SAFETY: valid: `NOWHERE`, or the array that the table keeps; either has this first
            // entry. Aliasing: it is an atomic.
            if self.index >= unsafe { &*places }.load(Ordering::Relaxed).addr() {
                return None;
            }
            // SAFETY: valid: the first entry is at most the number of the others, for it is set to
            // that, or, also from afar, to zero. Aliasing: it is an atomic.
            let words =
                unsafe { &*places.add(1 + self.index) }.load(Ordering::Relaxed).cast_const();
            // SAFETY: valid: an entry is `vacant`, or the words of a resident that the table keeps
            // alive. Aliasing: words are only ever lent out shared.
            let granted = unsafe { &*words }.try_borrow(mode)?;
            // What grants a borrow is not `vacant`, so it is the beginning of an `I`: only `move_in`
            // of the one `Place<I>` with this index puts residents here.
            // SAFETY: it was a reference a line ago.
            Some((unsafe { NonNull::new_unchecked(words.cast::<I>().cast_mut()) }, granted))
        })
    }
}

// ---- entering ---------------------------------------------------------------------------------

/// Proof that this thread may have instances now: it is not leaving, its exit is arranged for, and
/// the fast path sees the whole table. `!Send`.
pub(crate) struct Entered(PhantomData<*const ()>);

/// The thread is ending; it can have no instance any more.
#[derive(Debug)]
pub(crate) struct Leaving;

/// Begins every slow path.
pub(crate) fn enter() -> Result<Entered, Leaving> {
    LOCAL.with(|local| {
        match local.phase.get() {
            Phase::Open => {}
            // Each fails where thread-locals are already being destroyed and ours had not been made.
            Phase::Fresh => {
                name()?;
                EXIT.try_with(|_| ()).map_err(|_| Leaving)?;
                last_call::arrange();
                local.phase.set(Phase::Open);
            }
            Phase::Leaving => return Err(Leaving),
        }
        loop {
            let table = local.table.borrow();
            Local::show(&table);
            let nudged =
                table.me.as_ref().is_some_and(|me| me.nudged.swap(false, Ordering::SeqCst));
            drop(table);
            // A nudge that we miss here has set `nudged` after our swap, and so hides the places
            // after our store: the next look-up comes back.
            if !nudged {
                return Ok(Entered(PhantomData));
            }
            attend_all(local);
        }
    })
}

fn attend_all(local: &Local) {
    let mut index = 0;
    loop {
        // One at a time, with no borrow held: closing is foreign code and may come back here.
        let next = {
            let table = local.table.borrow();
            let rest = table.residents.get(index..).unwrap_or_default();
            rest.iter().position(Option::is_some).map(|ahead| {
                index += ahead;
                Arc::clone(table.residents[index].as_ref().expect("found to be there"))
            })
        };
        let Some(resident) = next else { return };
        let id = resident.id();
        if resident.attend() {
            drop(move_out(local, index, id));
        }
        index += 1;
    }
}

impl Entered {
    /// This thread, as others see it.
    pub(crate) fn this_thread(&self) -> Arc<ThisThread> {
        LOCAL.with(|local| {
            let mut table = local.table.borrow_mut();
            let Table { places, me, .. } = &mut **table;
            let me = me.get_or_insert_with(|| {
                let owner = describe();
                local.number.set(owner.number);
                Arc::new(ThisThread {
                    owner,
                    nudged: AtomicBool::new(false),
                    places: Mutex::new(places.clone()),
                    bell: Mutex::new(None),
                })
            });
            Arc::clone(me)
        })
    }
}

/// What the standard library calls this thread. It knows of no thread when it has put away what it
/// has of this one, and panics.
fn name() -> Result<Option<String>, Leaving> {
    contain(|| std::thread::current().name().map(str::to_owned)).map_err(|_| Leaving)
}

/// Milliseconds of a clock that goes on steadily, a few of them behind at times, but cheap to read.
pub(crate) fn coarse_ms() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: valid: there is room for the time. Aliasing: it is ours.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
    }
    #[cfg(not(target_os = "linux"))]
    {
        static START: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn describe() -> Owner {
    static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

    #[cfg(target_os = "linux")]
    // SAFETY: `gettid` takes nothing, touches no memory and cannot fail.
    let os_id = Some(unsafe { libc::gettid() }.unsigned_abs().into());
    #[cfg(not(target_os = "linux"))]
    let os_id = None;
    Owner {
        number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
        name: name().unwrap_or_default(),
        os_id,
    }
}

impl ThisThread {
    /// Whether the caller is this thread. True to the thread's very end.
    pub(crate) fn is_current(&self) -> bool {
        LOCAL.with(|local| local.number.get() == self.owner.number)
    }

    /// Has the thread look after its revoked instances: at once if a loop runs there, or else at its
    /// next use of any pool.
    pub(crate) fn nudge(&self) {
        self.nudged.store(true, Ordering::SeqCst);
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = &*places {
            set_visible(places, 0);
        }
        drop(places);
        let bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(bell) = bell {
            bell.wake();
        }
    }
}

/// Has `bell` woken whenever this thread is nudged, as long as what is returned lives. It should then
/// [`enter`].
pub(crate) fn set_bell(bell: Waker) -> impl Drop + use<> {
    struct Restore(Option<(Arc<ThisThread>, Option<Waker>)>, u32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // A child that was forked meanwhile has no bells, and must wait for no lock of its parent's.
            if let Some((me, before)) = self.0.take().filter(|_| self.1 == generation()) {
                *me.bell.lock().unwrap_or_else(PoisonError::into_inner) = before.clone();
                if let Some(bell) = before {
                    bell.wake(); // what came meanwhile has rung the other
                }
            }
        }
    }
    // A thread that is leaving has no instances to be nudged for.
    let before = enter().ok().map(|entered| {
        let me = entered.this_thread();
        let before = me.bell.lock().unwrap_or_else(PoisonError::into_inner).replace(bell);
        (me, before)
    });
    Restore(before, generation())
}

/// A thread whose first use of a pool is in a destructor of POSIX thread-specific data has run its
/// thread-locals' destructors already, and will not run ours. A destructor of the same kind does what
/// is left: nothing, in every other thread. It comes too late for a first use in the last round of
/// such destructors; how many there were already cannot be known.
mod last_call {
    #[cfg(unix)]
    pub(super) fn arrange() {
        use std::sync::atomic::{AtomicU64, Ordering};

        unsafe extern "C" fn last_call(_: *mut libc::c_void) {
            super::leave();
        }

        const NONE: u64 = u64::MAX;
        static KEY: AtomicU64 = AtomicU64::new(NONE);

        if KEY.load(Ordering::Acquire) == NONE {
            let mut key = 0;
            // SAFETY: valid: `key` is written to, and the destructor lives as long as the program.
            // Nothing aliases.
            if unsafe { libc::pthread_key_create(&raw mut key, Some(last_call)) } != 0 {
                return; // no key is left: what such a thread makes is leaked
            }
            let order = (Ordering::AcqRel, Ordering::Acquire);
            if KEY.compare_exchange(NONE, key.into(), order.0, order.1).is_err() {
                // SAFETY: the key was made a moment ago, and no thread has a value for it.
                unsafe { libc::pthread_key_delete(key) };
            }
        }
        if let Ok(key) = libc::pthread_key_t::try_from(KEY.load(Ordering::Acquire)) {
            // SAFETY: the key exists. The value is a mark, never followed; it must not be null.
            unsafe { libc::pthread_setspecific(key, std::ptr::without_provenance(1)) };
        }
    }

    #[cfg(not(unix))]
    pub(super) fn arrange() {}
}

// ---- leaving ----------------------------------------------------------------------------------

fn leave() {
    LOCAL.with(|local| {
        // From here on every use of a pool on this thread is refused, so no round of closing can
        // leave new instances behind, and one round is enough.
        local.phase.set(Phase::Leaving);
        local.shut();
        let table = ManuallyDrop::into_inner(local.table.replace(Table::new()));
        let Table { places: _, residents, me } = table;
        if let Some(me) = me {
            me.places.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let mut residents: Vec<_> = residents.into_iter().flatten().collect();
        residents.sort_unstable_by_key(|resident| resident.id());
        while let Some(newest) = residents.pop() {
            // A panic must not leave a thread-local's destructor: it would abort the process.
            let closed = catch_unwind(AssertUnwindSafe(|| newest.leave()));
            if let Err(payload) = closed {
                std::mem::forget(payload);
            }
        }
    });
}

/// In a forked child: this thread has no instances, and never had.
pub(crate) fn forget_all() {
    LOCAL.with(|local| {
        local.shut();
        local.number.set(0);
        // Leaked on purpose: what it holds is the parent's.
        if let Ok(mut table) = local.table.try_borrow_mut() {
            *table = Table::new();
        }
    });
}

/// A number that no other living thread has. It is to be had at any time: std knows nothing of its own
/// thread any more in the last destructors.
pub(crate) fn mark() -> usize {
    std::thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| (&raw const *mark).addr())
}

//! What belongs to one key: its work in a line, the worker that does it, its instance.
//!
//! A key is at a worker, its *seat*, from when work comes for it until it has neither work nor an
//! instance. Meanwhile it has at most one *turn*: it stands once in the queue of its worker, or its work
//! runs there. After each work it goes to the end of that queue, if there is more, so that keys take
//! turns. Then it *retires*: it goes off the list of keys, and whoever still holds it looks for the key
//! anew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::job::Job;
use super::room::Room;
use crate::id::InstanceId;
use crate::pool::instance::Instance;

pub(super) struct Key<T: 'static, K> {
    pub(super) key: K,
    /// For its work.
    pub(super) room: Room,
    state: Mutex<KeyState<T>>,
    /// It is not the key's any more. Written under the lock.
    retired: AtomicBool,
}

pub(super) struct KeyState<T: 'static> {
    pub(super) line: Line<T>,
    pub(super) seat: Option<usize>,
    /// It stands in its worker's queue, or runs.
    pub(super) has_turn: bool,
    pub(super) is_running: bool,
    /// Its instance, but while its work runs.
    pub(super) instance: Option<Arc<Instance<T>>>,
    pub(super) id: Option<InstanceId>,
    /// Where its worker has it among those that it keeps; when it was used last.
    pub(super) filed: u64,
    pub(super) used: u64,
}

impl<T, K> Key<T, K> {
    pub(super) fn new(key: K, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            key,
            room: Room::new(capacity),
            state: Mutex::new(KeyState {
                line: Line { first: None, more: VecDeque::new() },
                seat: None,
                has_turn: false,
                is_running: false,
                instance: None,
                id: None,
                filed: 0,
                used: 0,
            }),
            retired: AtomicBool::new(false),
        })
    }

    pub(super) fn has_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn retire(&self, _: &mut KeyState<T>) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, KeyState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that waits for one key: most of the time none, or one.
pub(super) struct Line<T: 'static> {
    first: Option<Job<T>>,
    more: VecDeque<Job<T>>,
}

impl<T> Line<T> {
    pub(super) fn push(&mut self, job: Job<T>) {
        match self.first {
            None => self.first = Some(job),
            Some(_) => self.more.push_back(job),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Job<T>> {
        let first = self.first.take()?;
        self.first = self.more.pop_front();
        if self.first.is_none() {
            self.more = VecDeque::new(); // there are very many keys
        }
        Some(first)
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

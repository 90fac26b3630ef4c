//! What a turn of a loop is to call, in order.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Something that the loop is to call.
pub(super) struct Entry {
    pub(super) callback: Callback,
    pub(super) cancelled: Option<Rc<Cell<bool>>>,
}

pub(super) enum Callback {
    Local(Box<dyn FnOnce()>),
    /// So many letters, which are the next in the inbox.
    Posted(usize),
    Ready(u64),
    Poll(u64),
}

impl Entry {
    pub(super) fn new(callback: Callback) -> Self {
        Self { callback, cancelled: None }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| cancelled.get())
    }
}

/// What a turn is to call, in order: a share of each source. Letters stay in the inbox until they are
/// called: here is only how many.
#[derive(Default)]
pub(super) struct Ready {
    queue: VecDeque<Entry>,
    /// How many calls it stands for.
    len: usize,
    /// How many of these are of letters.
    letters: usize,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn letters(&self) -> usize {
        self.letters
    }

    pub(super) fn push_back(&mut self, entry: Entry) {
        self.len += 1;
        self.queue.push_back(entry);
    }

    pub(super) fn push_letters(&mut self, letters: usize) {
        if letters > 0 {
            self.len += letters;
            self.letters += letters;
            self.queue.push_back(Entry::new(Callback::Posted(letters)));
        }
    }

    /// What is to be called next; of letters one at a time.
    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let front = self.queue.front_mut()?;
        self.len -= 1;
        if let Callback::Posted(letters) = &mut front.callback {
            self.letters -= 1;
            if *letters > 1 {
                *letters -= 1;
                return Some(Entry::new(Callback::Posted(1)));
            }
        }
        self.queue.pop_front()
    }

    /// The next letter is not there yet, so those behind it are left in the inbox, too.
    pub(super) fn leave_letters(&mut self) {
        if let Some(Entry { callback: Callback::Posted(letters), .. }) = self.queue.front() {
            self.len -= letters;
            self.letters -= letters;
            self.queue.pop_front();
        }
    }

    pub(super) fn take(&mut self) -> VecDeque<Entry> {
        std::mem::take(self).queue
    }
}

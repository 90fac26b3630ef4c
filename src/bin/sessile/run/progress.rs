//! How far it is, on standard error: a bar on a terminal, elsewhere a line for each quarter.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(super) struct Progress {
    bar: ProgressBar,
    all: u64,
    done: AtomicU64,
    is_shown: bool,
    has_lines: bool,
}

impl Progress {
    pub(super) fn new(cells: usize) -> Self {
        let all = cells as u64;
        let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        let style = "{bar:30.cyan} {pos} of {len} cells, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(style).expect("it is a constant");
        bar.set_style(style.progress_chars("━╸─"));
        let is_shown = !bar.is_hidden(); // it hides where there is no terminal
        Self { bar, all, done: AtomicU64::new(0), is_shown, has_lines: true }
    }

    /// A bar on a terminal, nothing elsewhere.
    pub(super) fn bar_only(cells: usize) -> Self {
        Self { has_lines: false, ..Self::new(cells) }
    }

    /// Any thread may tell that so many more are done.
    pub(super) fn add(&self, cells: usize) {
        let before = self.done.fetch_add(cells as u64, Ordering::Relaxed);
        let now = before + cells as u64;
        if self.is_shown {
            self.bar.inc(cells as u64);
        } else if self.has_lines && now * 4 / self.all > before * 4 / self.all {
            let _ = writeln!(io::stderr(), "{now} of {} cells", self.all); // nobody need read it
        }
    }

    /// Has the bar out of the way meanwhile.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

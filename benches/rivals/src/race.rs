//! Taking times turn by turn.
//!
//! The machine may be shared and its clock may drift. So contestants run in short turns, one after
//! the other, round after round; the order is rotated; each ratio is taken between two turns of the
//! same round, and the median of these ratios is the figure.
//!
//! Where things lie in memory can make one of them faster or slower by a third for as long as a
//! process lives, and each process has them elsewhere. So rounds are run in several processes.

use std::time::Duration;

use crate::memory;
use crate::workload::Contestant;

/// How much time to take.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How often each contestant has its turn.
    pub rounds: usize,
    /// How long a turn should be.
    pub turn: Duration,
}

impl Effort {
    #[must_use]
    pub const fn new(rounds: usize, turn: Duration) -> Self {
        Self { rounds, turn }
    }
}

/// What comes of a turn.
pub trait Outcome {
    /// How many figures it has.
    const FIGURES: usize;

    /// How long it took.
    fn took(&self) -> Duration;

    /// The figures: nanoseconds for each of so many repetitions first.
    fn figures(&self, times: u64) -> Vec<f64>;
}

impl Outcome for Duration {
    const FIGURES: usize = 1;

    fn took(&self) -> Duration {
        *self
    }

    fn figures(&self, times: u64) -> Vec<f64> {
        vec![self.as_nanos() as f64 / times as f64]
    }
}

/// Some contestants, and the figures of each of them in each round.
pub struct Race<O = Duration> {
    pub contestants: Vec<Contestant<O>>,
    /// By contestant, and by figure.
    taken: Vec<Vec<Vec<f64>>>,
}

/// A median, and the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Figure {
    /// # Panics
    ///
    /// If there are no samples, or one is not a number.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(|a, b| a.partial_cmp(b).expect("times are numbers"));
        let at = |part: usize| samples[(samples.len() - 1) * part / 4];
        Self { median: at(2), low: at(1), high: at(3) }
    }
}

impl<O: Outcome> Race<O> {
    /// Lets each repeat its workload for about as long as a turn.
    #[must_use]
    pub fn run(contestants: Vec<Contestant<O>>, effort: Effort) -> Self {
        let times: Vec<u64> = contestants.iter().map(|one| enough(one, effort.turn)).collect();
        Self::run_times(contestants, effort.rounds, &times)
    }

    /// Puts together the rounds of several child processes, which were given these arguments and
    /// have [printed](Self::print) a race of these contestants.
    ///
    /// # Panics
    ///
    /// If they have not.
    #[must_use]
    pub fn of_children(processes: usize, args: &[&str], contestants: Vec<Contestant<O>>) -> Self {
        let mut taken = nothing(&contestants);
        let columns = contestants.len() * O::FIGURES;
        for _ in 0..processes {
            let printed = memory::in_child(args);
            assert_eq!(printed.len() % columns, 0, "all have the same number of turns");
            let rounds = printed.chunks(printed.len() / columns);
            taken.iter_mut().flatten().zip(rounds).for_each(|(all, more)| all.extend(more));
        }
        Self { contestants, taken }
    }

    /// Prints all figures, contestant by contestant.
    pub fn print(&self) {
        for figure in self.taken.iter().flatten().flatten() {
            println!("{figure}");
        }
    }

    /// Lets each repeat its workload `times` in each turn.
    #[must_use]
    pub fn run_each(contestants: Vec<Contestant<O>>, rounds: usize, times: u64) -> Self {
        let times = vec![times; contestants.len()];
        Self::run_times(contestants, rounds, &times)
    }

    fn run_times(contestants: Vec<Contestant<O>>, rounds: usize, times: &[u64]) -> Self {
        let mut taken = nothing(&contestants);
        for round in 0..rounds {
            for turn in 0..contestants.len() {
                let who = (round + turn) % contestants.len();
                let figures = contestants[who].run(times[who]).figures(times[who]);
                taken[who].iter_mut().zip(figures).for_each(|(all, more)| all.push(more));
            }
        }
        Self { contestants, taken }
    }

    /// Where the contestant of this name is.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn find(&self, name: &str) -> usize {
        let found = self.contestants.iter().position(|one| one.name == name);
        found.unwrap_or_else(|| panic!("nobody is called {name}"))
    }

    /// Nanoseconds for one repetition.
    #[must_use]
    pub fn ns(&self, who: usize) -> Figure {
        self.figure(who, 0)
    }

    /// One of the figures of the outcomes.
    #[must_use]
    pub fn figure(&self, who: usize, which: usize) -> Figure {
        Figure::of(self.taken[who][which].clone())
    }

    /// The time of `one` divided by that of `other`, round by round.
    #[must_use]
    pub fn ratio(&self, one: usize, other: usize) -> Figure {
        self.compare(one, other, |one, other| one / other)
    }

    /// Nanoseconds by which `one` takes longer than `other`, round by round.
    #[must_use]
    pub fn excess(&self, one: usize, other: usize) -> Figure {
        self.compare(one, other, |one, other| one - other)
    }

    fn compare(&self, one: usize, other: usize, by: impl Fn(f64, f64) -> f64) -> Figure {
        let rounds = self.taken[one][0].iter().zip(&self.taken[other][0]);
        Figure::of(rounds.map(|(one, other)| by(*one, *other)).collect())
    }
}

fn nothing<O: Outcome>(contestants: &[Contestant<O>]) -> Vec<Vec<Vec<f64>>> {
    vec![vec![Vec::new(); O::FIGURES]; contestants.len()]
}

/// How many repetitions fill the time.
fn enough<O: Outcome>(contestant: &Contestant<O>, time: Duration) -> u64 {
    let mut times = 1;
    loop {
        let took = contestant.run(times).took();
        if took * 4 >= time {
            let fill = time.as_nanos() as f64 / took.as_nanos() as f64 * times as f64;
            return (fill as u64).max(1);
        }
        times *= 2;
    }
}

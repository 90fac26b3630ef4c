//! The sections of the page, in its order.

pub mod access;
pub mod asyncio;
pub mod calls;
pub mod checkout;
pub mod confinement;
pub mod dify;
pub mod idle;
pub mod in_flight;
pub mod interpreters;
pub mod keyed;
pub mod keyed_load;
pub mod live;
pub mod post;
pub mod room;
pub mod round_trip;
pub mod sessions;
pub mod short_work;
pub mod threads;

use crate::chart::{Bars, Chart, Scale};
use crate::page::{self, Section};
use crate::race::Race;

/// How thorough to be.
#[derive(Clone, Copy)]
pub struct Pace {
    /// For trying out: few processes and rounds, figures of little worth.
    pub quick: bool,
}

impl Pace {
    fn pick<T>(self, quick: T, thorough: T) -> T {
        if self.quick { quick } else { thorough }
    }
}

/// A section by its name on the command line.
pub struct Entry {
    pub name: &'static str,
    pub write: fn(Pace) -> Section,
    /// What a child process of it does with the arguments it was given: prints numbers.
    pub child: fn(&[String]),
}

pub const ALL: [Entry; 18] = [
    access::ENTRY,
    checkout::ENTRY,
    threads::ENTRY,
    live::ENTRY,
    room::ENTRY,
    post::ENTRY,
    round_trip::ENTRY,
    short_work::ENTRY,
    keyed::ENTRY,
    keyed_load::ENTRY,
    calls::ENTRY,
    in_flight::ENTRY,
    sessions::ENTRY,
    asyncio::ENTRY,
    dify::ENTRY,
    interpreters::ENTRY,
    confinement::ENTRY,
    idle::ENTRY,
];

/// A chart of the time that each repetition took everybody, and of the ratios to one of ours.
fn times(title: &str, race: &Race, ours: usize) -> String {
    let bars = race.contestants.iter().enumerate().map(|(who, contestant)| {
        let ns = race.ns(who).median;
        let note = match contestant.is_ours() {
            true => format!("{} ns", page::number(ns)),
            false => format!("{} ns, {:.2}×", page::number(ns), race.ratio(ours, who).median),
        };
        Bars {
            label: contestant.name.to_owned(),
            ours: contestant.is_ours(),
            values: vec![(ns, note)],
        }
    });
    let name = race.contestants[ours].name.replace('`', "");
    Chart {
        title: title.to_owned(),
        subtitle: format!("nanoseconds, shorter is better; × is {name} ÷ this one"),
        series: Vec::new(),
        bars: bars.collect(),
        scale: Scale::Linear,
    }
    .svg()
}

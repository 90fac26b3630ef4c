//! Many invocations at once on one session.

use std::time::Duration;

use super::{Entry, Pace};
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::{Effort, Race};
use crate::workload::calls::{Flight, in_flight};

pub const ENTRY: Entry = Entry { name: "in_flight", write, child };

fn child(_: &[String]) {
    Race::run(in_flight(), Effort::new(21, Duration::from_millis(20))).print();
}

fn write(pace: Pace) -> Section {
    let race = Race::of_children(pace.pick(1, 3), &[ENTRY.name], in_flight());
    let few = race.find(Flight::FEW.name);
    let mut goals = Vec::new();
    let mut table =
        Table::new(&["one session, TCP", "÷ 10 in flight", "computed for each call, ns"]);
    for (who, flight) in race.contestants.iter().enumerate() {
        let compared = race.ratio(who, few);
        let shown = if who == few { "–".to_owned() } else { ratio(compared) };
        let cells = vec![flight.name.to_owned(), shown, number(race.ns(who).median)];
        table.row(compared.median, cells);
        if who != few {
            let what = format!("a call, {} ÷ {} on one session", flight.name, Flight::FEW.name);
            goals.push(Goal::at_most(1.2, what, compared));
        }
    }
    let parts = vec![
        Part::prose(
            "One thread invokes so many times, over one session and TCP, then takes the answers, and \
             begins again. A thousand that are written together share the system calls. So there is a \
             third row: there, too, ten are asked at a time, while 990 others wait for answers that do \
             not come. What those cost is the routing. The thread and the session's are kept on one \
             processor, and the time is that for which both have computed.",
        ),
        Part::Table(table),
    ];
    Section { title: "A thousand in flight", goals, parts }
}

//! What a page is made of, and how it is written.

use std::fmt::Write as _;

use crate::race::Figure;

/// A section of the page.
pub struct Section {
    pub title: &'static str,
    pub goals: Vec<Goal>,
    pub parts: Vec<Part>,
}

/// What was to be reached, and what was.
pub struct Goal {
    pub what: String,
    pub bound: String,
    pub measured: String,
    pub met: bool,
}

impl Goal {
    /// A goal for a ratio: its median must not be greater.
    #[must_use]
    pub fn at_most(bound: f64, what: impl Into<String>, measured: Figure) -> Self {
        let bound_shown = format!("{bound:.2}");
        Self {
            what: what.into(),
            bound: format!("at most {}", bound_shown.strip_suffix('0').unwrap_or(&bound_shown)),
            measured: ratio(measured),
            met: measured.median <= bound,
        }
    }
}

pub enum Part {
    Prose(String),
    Table(Table),
    /// An SVG, the name of its file, and what to read to those who do not see it.
    Chart {
        file: &'static str,
        alt: String,
        svg: String,
    },
}

impl Part {
    pub fn prose(text: impl Into<String>) -> Self {
        Self::Prose(text.into())
    }
}

/// A table whose rows are sorted: the greatest key, our worst loss, comes first.
#[derive(Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<(f64, Vec<String>)>,
}

impl Table {
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, key: f64, cells: Vec<String>) {
        self.rows.push((key, cells));
    }

    fn write(&self, page: &mut String) {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        page.push_str(&line(&self.head));
        let rule = |column| if column == 0 { ":--" } else { "--:" }.to_owned();
        page.push_str(&line(&(0..self.head.len()).map(rule).collect::<Vec<_>>()));
        for (_, cells) in rows {
            page.push_str(&line(cells));
        }
    }
}

impl Section {
    /// Writes the section in Markdown, its charts being in the folder `charts`.
    #[must_use]
    pub fn markdown(&self, charts: &str) -> String {
        let mut page = format!("## {}\n", self.title);
        for part in &self.parts {
            page.push('\n');
            match part {
                Part::Prose(text) => page.push_str(&format!("{text}\n")),
                Part::Table(table) => table.write(&mut page),
                Part::Chart { file, alt, .. } => {
                    writeln!(page, "![{alt}]({charts}/{file})").expect("strings take all");
                }
            }
        }
        page
    }
}

/// The table of goals, missed ones first.
#[must_use]
pub fn goals(sections: &[Section]) -> String {
    let mut table = Table::new(&["goal", "bound", "measured", ""]);
    for goal in sections.iter().flat_map(|section| &section.goals) {
        let Goal { what, bound, measured, met } = goal;
        let verdict = if *met { "met" } else { "**missed**" };
        let cells = vec![what.clone(), bound.clone(), measured.clone(), verdict.to_owned()];
        table.row(if *met { 0.0 } else { 1.0 }, cells);
    }
    let mut page = String::new();
    table.write(&mut page);
    page
}

// ---- numbers --------------------------------------------------------------------------------------

/// A ratio with its quartiles, bold if it is a loss.
#[must_use]
pub fn ratio(figure: Figure) -> String {
    let Figure { median, low, high } = figure;
    let digits = digits(median);
    let shown = format!("{median:.digits$}");
    let shown = if median > 1.0 { format!("**{shown}**") } else { shown };
    format!("{shown} ({low:.digits$}–{high:.digits$})")
}

/// A ratio of two medians.
#[must_use]
pub fn bare_ratio(ratio: f64) -> String {
    let shown = format!("{ratio:.*}", digits(ratio));
    if ratio > 1.0 { format!("**{shown}**") } else { shown }
}

fn digits(ratio: f64) -> usize {
    match ratio {
        ..0.1 => 3,
        ..10.0 => 2,
        _ => 0,
    }
}

/// A number to three figures or so, with its thousands apart.
#[must_use]
pub fn number(value: f64) -> String {
    let shown = match value.abs() {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => thousands(value.round() as i64),
    };
    shown.replace('-', "−")
}

/// A whole number, with its thousands apart.
#[must_use]
pub fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut out = String::from(if value < 0 { "−" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

//! How spans of time and numbers of things are written for people.

use std::fmt;
use std::time::Duration;

/// A span of time, in the unit in which one would say it: `850 ms`, `1.5 s`, `2 m 05 s`, `3 h 04 m`.
#[derive(Clone, Copy)]
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        // By what it is rounded to, so that 999.9 ms is one second.
        let ms = (micros + 500) / 1_000;
        match ms {
            0 => write!(f, "{micros} µs"),
            1..1_000 => write!(f, "{ms} ms"),
            1_000..60_000 if ms % 1_000 < 100 => write!(f, "{} s", ms / 1_000),
            1_000..60_000 => write!(f, "{}.{} s", ms / 1_000, ms % 1_000 / 100),
            60_000..3_600_000 => write!(f, "{} m {:02} s", ms / 60_000, ms / 1_000 % 60),
            _ => write!(f, "{} h {:02} m", ms / 3_600_000, ms / 60_000 % 60),
        }
    }
}

/// So many of a thing whose plural is regular: `1 instance`, `2 instances`.
pub(crate) struct Count<'t>(pub(crate) usize, pub(crate) &'t str);

impl fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, thing) = self;
        write!(f, "{number} {thing}{}", if *number == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_in_the_unit_in_which_one_would_say_it() {
        let said = |micros| Span(Duration::from_micros(micros)).to_string();
        assert_eq!(said(0), "0 µs");
        assert_eq!(said(20), "20 µs");
        assert_eq!(said(850_200), "850 ms");
        assert_eq!(said(999_980), "1 s");
        assert_eq!(said(1_530_000), "1.5 s");
        assert_eq!(said(125_000_000), "2 m 05 s");
        assert_eq!(said(11_040_000_000), "3 h 04 m");
    }

    #[test]
    fn one_thing_is_written_without_an_s() {
        assert_eq!(Count(1, "instance").to_string(), "1 instance");
        assert_eq!(Count(0, "instance").to_string(), "0 instances");
    }
}

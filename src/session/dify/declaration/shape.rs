//! Shapes of JSON as the daemon reads them, which is as Go does.
//!
//! What is absent or `null` is the type's zero; keys match in any case; what is not known is passed
//! over. A value is first *read* (its types are looked at) and then *checked* (its rules are), field by
//! field, so the first error is the one that the daemon tells.

use serde_json::{Map, Value};

/// What may stand somewhere.
pub(super) enum Shape {
    Text,
    Bool,
    Signed,
    Unsigned,
    Float,
    /// A number, or one in quotation marks.
    Decimal,
    /// A time as in RFC 3339, with its zone.
    Time,
    Anything,
    /// An object of anything.
    Map,
    List(&'static Shape),
    Object(&'static [Field]),
}

/// A field of an object.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) rules: &'static [Rule],
    /// Whether it may be absent, as opposed to zero.
    pub(super) optional: bool,
}

/// What has to hold. They are looked at in order.
pub(super) enum Rule {
    /// It is there, and not zero.
    Required,
    /// If it is not there, or zero, nothing else is asked.
    OmitEmpty,
    /// So many characters or elements at most.
    AtMost(usize),
    /// A number not below, and not above.
    Between(u64, u64),
    OneOf(&'static [&'static str]),
    Is(fn(&str) -> bool, &'static str),
    /// No list and no object.
    Basic,
    /// A scope that goes with the `type` beside it.
    Scope,
    /// Of each element.
    Each(&'static [Rule]),
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }

    pub(super) fn within(self, path: &str) -> Self {
        Self { path: join(path, &self.path), what: self.what }
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", _) => key.to_owned(),
        (_, "") => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// A value of an object by its key, in any case; `null` is nothing.
pub(in super::super) fn get<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.as_object().and_then(|object| get_of(object, key))
}

fn get_of<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let exact = object.get(key);
    let folded = || object.iter().find(|(known, _)| same_key(known, key)).map(|(_, value)| value);
    exact.or_else(folded).filter(|value| !value.is_null())
}

/// Go compares keys by simple case folding, in which two letters beyond ASCII fold into it.
fn same_key(one: &str, other: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    one.chars().map(fold).eq(other.chars().map(fold))
}

/// For an error message, cut off.
pub(super) fn quote(value: &Value) -> String {
    let text =
        value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string());
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    format!("`{cut}`")
}

pub(super) fn check(value: &Value, fields: &'static [Field]) -> Result<(), Fault> {
    read(Some(value), &Shape::Object(fields), "")?;
    check_fields(Some(value), fields, "")
}

/// Whether the types are right.
pub(super) fn read(value: Option<&Value>, shape: &Shape, path: &str) -> Result<(), Fault> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(()) };
    let expected = |what: &str| Err(Fault::new(path, format!("is {}, not {what}", quote(value))));
    match shape {
        Shape::Anything => Ok(()),
        Shape::Text if value.is_string() => Ok(()),
        Shape::Text => expected("text"),
        Shape::Bool if value.is_boolean() => Ok(()),
        Shape::Bool => expected("true or false"),
        Shape::Signed if value.is_i64() => Ok(()),
        Shape::Signed => expected("a whole number"),
        Shape::Unsigned if value.is_u64() => Ok(()),
        Shape::Unsigned => expected("a whole number that is not negative"),
        Shape::Float if value.is_number() => Ok(()),
        Shape::Float => expected("a number"),
        Shape::Decimal => match value {
            Value::Number(_) => Ok(()),
            Value::String(text) if is_decimal(text) => Ok(()),
            _ => expected("a decimal number"),
        },
        Shape::Time => match value.as_str() {
            Some(text) if is_time(text) => Ok(()),
            _ => expected("a time with its zone, such as 2025-01-31T12:00:00Z"),
        },
        Shape::Map if value.is_object() => Ok(()),
        Shape::Map => expected("an object"),
        Shape::List(of) => {
            let Value::Array(all) = value else { return expected("a list") };
            let mut each = all.iter().enumerate();
            each.try_for_each(|(at, value)| read(Some(value), of, &format!("{path}[{at}]")))
        }
        Shape::Object(fields) => {
            let Value::Object(object) = value else { return expected("an object") };
            let mut each = fields.iter();
            each.try_for_each(|field| {
                read(get_of(object, field.name), &field.shape, &join(path, field.name))
            })
        }
    }
}

fn check_fields(value: Option<&Value>, fields: &[Field], path: &str) -> Result<(), Fault> {
    let mut each = fields.iter();
    each.try_for_each(|field| {
        let found = value.and_then(|object| get(object, field.name));
        let path = join(path, field.name);
        check_value(found, &field.shape, field.rules, field.optional, value, &path)
    })
}

fn check_value(
    value: Option<&Value>,
    shape: &Shape,
    rules: &[Rule],
    optional: bool,
    parent: Option<&Value>,
    path: &str,
) -> Result<(), Fault> {
    if value.is_none() && (optional || matches!(shape, Shape::Anything)) {
        return match rules.first() {
            None | Some(Rule::OmitEmpty) => Ok(()),
            _ => Err(Fault::new(path, "is missing")),
        };
    }
    let is_object = matches!(shape, Shape::Object(_));
    for rule in rules {
        let holds = match rule {
            // Of an object its fields are asked instead.
            Rule::Required if is_object => continue,
            Rule::Required if is_zero(value, shape) => {
                return Err(Fault::new(path, "is missing, or empty"));
            }
            Rule::Required => continue,
            Rule::OmitEmpty if !optional && is_zero(value, shape) => return Ok(()),
            Rule::OmitEmpty => continue,
            Rule::Each(rules) => {
                let (Some(Value::Array(all)), Shape::List(of)) = (value, shape) else {
                    return Ok(());
                };
                return all.iter().enumerate().try_for_each(|(at, value)| {
                    let value = Some(value).filter(|value| !value.is_null());
                    check_value(value, of, rules, false, parent, &format!("{path}[{at}]"))
                });
            }
            rule => check_rule(value, rule, parent),
        };
        if let Err(why) = holds {
            let value = quote(value.unwrap_or(&Value::from("")));
            return Err(Fault::new(path, format!("is {value}: {why}")));
        }
    }
    match shape {
        Shape::Object(fields) => check_fields(value, fields, path),
        _ => Ok(()),
    }
}

fn check_rule(value: Option<&Value>, rule: &Rule, parent: Option<&Value>) -> Result<(), String> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    let holds = |is, why: String| if is { Ok(()) } else { Err(why) };
    match rule {
        Rule::Required | Rule::OmitEmpty | Rule::Each(_) => Ok(()),
        Rule::AtMost(most) => match value {
            Some(Value::Array(all)) => {
                holds(all.len() <= *most, format!("{} elements, of {most} at most", all.len()))
            }
            _ => {
                let count = text.chars().count();
                holds(count <= *most, format!("{count} characters, of {most} at most"))
            }
        },
        Rule::Between(least, most) => {
            let number = value.and_then(Value::as_u64).unwrap_or_default();
            holds((*least..=*most).contains(&number), format!("it has to be {least} to {most}"))
        }
        Rule::OneOf(known) => {
            holds(known.contains(&text), format!("it has to be one of {}", known.join(", ")))
        }
        Rule::Is(is, what) => holds(is(text), format!("it has to be {what}")),
        Rule::Basic => {
            let is = !matches!(value, Some(Value::Array(_) | Value::Object(_)));
            holds(is, "it has to be text, a number, true or false".to_owned())
        }
        Rule::Scope => {
            let of = parent.and_then(|parent| get(parent, "type")).and_then(Value::as_str);
            let of = of.unwrap_or_default();
            let known: &[&str] = super::rules::scopes(of);
            if known.is_empty() {
                return Err(format!("the type `{of}` has no scope"));
            }
            let mut parts = text.split('&').map(str::trim);
            holds(
                parts.any(|part| known.contains(&part)),
                format!("the scopes of `{of}` are {}", known.join(", ")),
            )
        }
    }
}

/// Whether something is what Go has without being told.
fn is_zero(value: Option<&Value>, shape: &Shape) -> bool {
    let Some(value) = value else { return true };
    match shape {
        Shape::Text => value.as_str() == Some(""),
        Shape::Bool => value.as_bool() == Some(false),
        Shape::Signed | Shape::Unsigned | Shape::Float => value.as_f64() == Some(0.0),
        Shape::Time => value.as_str().is_some_and(is_year_one),
        Shape::Object(fields) => fields.iter().all(|field| match get(value, field.name) {
            Some(_) if field.optional => false,
            found => is_zero(found, &field.shape),
        }),
        // An empty list is there, and so is anything of a type that Go does not know beforehand.
        Shape::List(_) | Shape::Map | Shape::Decimal | Shape::Anything => false,
    }
}

fn is_decimal(text: &str) -> bool {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (text, None),
    };
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    exponent.is_none_or(|exponent| exponent.parse::<i32>().is_ok())
        && whole.len() + part.len() > 0
        && whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit())
}

/// The parts of a time, as Go parses RFC 3339: an hour may have one digit, and a comma may stand for
/// the point before parts of a second; an offset may have 24 hours and 60 minutes.
fn is_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once('T') else { return false };
    let date: Vec<&str> = date.split('-').collect();
    let &[year, month, day] = &date[..] else { return false };
    let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2))
    else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    let at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(at);
    let parts: Vec<&str> = time.split(':').collect();
    let &[hour, minute, second] = &parts[..] else { return false };
    let hour = number(hour, 2).or_else(|| number(hour, 1));
    let (second, part) = match second.split_once(['.', ',']) {
        Some((second, part)) => (second, part),
        None => (second, "0"),
    };
    let below = |value: Option<u32>, limit| value.is_some_and(|value| value < limit);
    let in_zone = zone == "Z" || {
        let offset = zone.get(1..).and_then(|zone| zone.split_once(':'));
        offset.is_some_and(|(hour, minute)| {
            below(number(hour, 2), 25) && below(number(minute, 2), 61)
        })
    };
    (1..=days).contains(&day)
        && below(hour, 24)
        && below(number(minute, 2), 60)
        && below(number(second, 2), 60)
        && !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_digit())
        && in_zone
}

fn number(text: &str, digits: usize) -> Option<u32> {
    let is = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is.then(|| text.parse().ok()).flatten()
}

/// Go's zero of a time: the beginning of the year 1.
fn is_year_one(text: &str) -> bool {
    let Some(time) = text.strip_prefix("0001-01-01T").and_then(|time| time.strip_suffix('Z'))
    else {
        return false;
    };
    time.bytes().all(|byte| matches!(byte, b'0' | b':' | b'.' | b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        for good in [
            "2025-03-04T05:06:07Z",
            "2025-03-04T5:06:07Z",
            "2025-03-04T05:06:07.123456789012Z",
            "2025-03-04T05:06:07,5+02:00",
            "2024-02-29T00:00:00-24:60",
        ] {
            assert!(is_time(good), "{good}");
        }
        for bad in [
            "",
            "2025-03-04",
            "2025-03-04t05:06:07Z",
            "2025-03-04T05:06:07z",
            "2025-03-04T05:06:07",
            "2025-02-29T05:06:07Z",
            "2025-3-04T05:06:07Z",
            "2025-03-04T24:06:07Z",
            "2025-03-04T05:06:60Z",
            "2025-03-04T05:06:07.Z",
            "2025-03-04T05:06:07+0200",
            "2025-03-04T05:06:07+25:00",
            "2025-03-04 05:06:07Z",
        ] {
            assert!(!is_time(bad), "{bad}");
        }
    }

    #[test]
    fn decimals_are_read_as_the_daemon_reads_them() {
        assert!(["1", "-0.5", "+3", ".5", "5.", "1e-3", "2E5"].into_iter().all(is_decimal));
        assert!(!["", ".", "cheap", "1,5", "1e", "1.2.3", "0x1"].into_iter().any(is_decimal));
    }
}

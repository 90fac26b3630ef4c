//! Functions of the host's that code in the sandbox may call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use monty_types::{ExcType, ExtFunctionResult, MontyException, MontyObject};
use serde_json::{Map, Number, Value};

/// How deep arguments and answers may be nested.
const DEEPEST: usize = 100;

/// One call from the sandbox: what it passes, as JSON.
///
/// Tuples come as arrays; keys of dictionaries must be strings.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HostCall {
    /// The positional arguments.
    pub args: Vec<Value>,
    /// The keyword arguments.
    pub kwargs: Map<String, Value>,
}

type Function = dyn Fn(HostCall) -> anyhow::Result<Value> + Send + Sync;

/// The functions of a session, by name.
#[derive(Clone, Default)]
pub(super) struct HostFunctions(BTreeMap<String, Arc<Function>>);

impl HostFunctions {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn insert(&mut self, name: String, function: Arc<Function>) {
        self.0.insert(name, function);
    }

    #[cfg(all(feature = "cpython", unix))]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Calls one. What goes wrong becomes an exception in the sandbox, which may catch it.
    pub(super) fn call(
        &self,
        name: &str,
        args: Vec<MontyObject>,
        kwargs: Vec<(MontyObject, MontyObject)>,
    ) -> ExtFunctionResult {
        let Some(function) = self.0.get(name) else {
            return ExtFunctionResult::NotFound(name.to_owned());
        };
        let call = args
            .into_iter()
            .map(|arg| to_json(arg, 0))
            .collect::<Result<_, _>>()
            .and_then(|args| Ok(HostCall { args, kwargs: members(kwargs, 0)? }));
        let outcome = match call {
            Ok(call) => {
                function(call).map_err(|error| (ExcType::RuntimeError, format!("{error:#}")))
            }
            Err(what) => Err((ExcType::TypeError, format!("{name}() cannot be passed {what}"))),
        };
        let answer = outcome.and_then(|value| {
            from_json(value, 0)
                .map_err(|what| (ExcType::RuntimeError, format!("{name}() gave {what}")))
        });
        match answer {
            Ok(value) => value.into(),
            Err((kind, message)) => {
                ExtFunctionResult::Error(MontyException::new(kind, Some(message)))
            }
        }
    }
}

impl fmt::Debug for HostFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn to_json(object: MontyObject, depth: usize) -> Result<Value, String> {
    if depth > DEEPEST {
        return Err("something nested so deep".into());
    }
    Ok(match object {
        MontyObject::None => Value::Null,
        MontyObject::Bool(value) => value.into(),
        MontyObject::Int(value) => value.into(),
        MontyObject::Float(value) => {
            Number::from_f64(value).ok_or_else(|| format!("{value}, which JSON has not"))?.into()
        }
        MontyObject::String(text) => text.into(),
        MontyObject::List(items)
        | MontyObject::Tuple(items)
        | MontyObject::Set(items)
        | MontyObject::FrozenSet(items)
        | MontyObject::NamedTuple { values: items, .. } => {
            items.into_iter().map(|item| to_json(item, depth + 1)).collect::<Result<_, _>>()?
        }
        MontyObject::Dict(pairs) => members(pairs, depth)?.into(),
        other => return Err(format!("{other}")),
    })
}

fn members(
    pairs: impl IntoIterator<Item = (MontyObject, MontyObject)>,
    depth: usize,
) -> Result<Map<String, Value>, String> {
    let member = |(key, value)| match key {
        MontyObject::String(key) => Ok((key, to_json(value, depth + 1)?)),
        key => Err(format!("a dictionary with the key {key}, which is no string")),
    };
    pairs.into_iter().map(member).collect()
}

fn from_json(value: Value, depth: usize) -> Result<MontyObject, &'static str> {
    if depth > DEEPEST {
        return Err("something nested too deep");
    }
    Ok(match value {
        Value::Null => MontyObject::None,
        Value::Bool(value) => MontyObject::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => MontyObject::Int(value),
            (None, Some(value)) => MontyObject::Float(value),
            (None, None) => return Err("a number out of range"),
        },
        Value::String(text) => MontyObject::String(text),
        Value::Array(items) => MontyObject::List(
            items.into_iter().map(|item| from_json(item, depth + 1)).collect::<Result<_, _>>()?,
        ),
        Value::Object(members) => {
            let pair = |(key, value)| {
                from_json(value, depth + 1).map(|value| (MontyObject::String(key), value))
            };
            MontyObject::Dict(members.into_iter().map(pair).collect::<Result<_, _>>()?)
        }
    })
}

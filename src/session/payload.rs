use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

/// JSON that is carried as it is: checked to be well-formed, not yet taken apart.
///
/// So whoever wants the answer does the work of reading it, on its own thread, and not the thread that
/// every answer passes through. `Debug` tells its length only, for it may hold a secret.
#[derive(Clone)]
pub struct Payload(Box<RawValue>);

impl Payload {
    /// The JSON of a value.
    ///
    /// # Errors
    ///
    /// If the value cannot be told in JSON: a map whose keys are not strings, or a `Serialize` that
    /// fails.
    pub fn new<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The parameters of a request or a notification: what is `null` in JSON, such as `()`, is left out.
    ///
    /// JSON-RPC knows an object, an array or nothing there, and some peers fall silent at a `null`.
    pub(super) fn params<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Option<Self>> {
        let params = Self::new(value)?;
        Ok((params.as_str() != "null").then_some(params))
    }

    /// `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// What it says, read as a `T`.
    ///
    /// # Errors
    ///
    /// If it says something else.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }

    /// What it says, whatever that is.
    ///
    /// # Errors
    ///
    /// If it is nested more deeply than 128 times, as `serde_json` has it.
    pub fn value(&self) -> serde_json::Result<Value> {
        self.parse()
    }

    /// The JSON itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    pub(super) fn raw(&self) -> &RawValue {
        &self.0
    }
}

impl From<Box<RawValue>> for Payload {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw)
    }
}

impl From<&RawValue> for Payload {
    fn from(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Self::new(&value).expect("a `Value` is JSON")
    }
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.get().len())
    }
}

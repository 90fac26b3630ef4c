//! Answers whose shape is a little off, as real peers send them, and what has to become of the call.
//! Both kinds of session are held to the same table.

#![allow(dead_code, unreachable_pub)]

use serde_json::{Value, json};
use sessile::session::SessionError;

/// What the caller is told.
#[derive(Debug)]
pub enum Told {
    /// The answer 1.
    One,
    /// The peer's own error: its code and its message.
    Failure(Option<i64>, &'static str),
    /// That the answer cannot be understood.
    Malformed,
}

use Told::{Failure, Malformed, One};

pub struct Shape {
    pub name: &'static str,
    /// Messages, one a line; `{id}` stands for the id of the request.
    pub said: &'static str,
    pub told: Told,
    /// How many messages count as malformed.
    pub malformed: u64,
}

const fn shape(name: &'static str, said: &'static str, told: Told, malformed: u64) -> Shape {
    Shape { name, said, told, malformed }
}

pub const SHAPES: &[Shape] = &[
    shape("plain", r#"{"jsonrpc":"2.0","id":{id},"result":1}"#, One, 0),
    shape("1.0: no error", r#"{"id":{id},"result":1,"error":null}"#, One, 0),
    shape(
        "1.0: an error beside no result",
        r#"{"id":{id},"result":null,"error":{"code":-5,"message":"no"}}"#,
        Failure(Some(-5), "no"),
        0,
    ),
    shape(
        "a result beside an error",
        r#"{"id":{id},"result":1,"error":{"code":-5,"message":"no"}}"#,
        Failure(Some(-5), "no"),
        0,
    ),
    shape("an error of text", r#"{"id":{id},"error":"no"}"#, Failure(None, "no"), 0),
    shape(
        "an error of a number",
        r#"{"id":{id},"error":5}"#,
        Failure(None, "an error of an unknown form"),
        0,
    ),
    shape(
        "an error without words",
        r#"{"id":{id},"error":{"code":-5}}"#,
        Failure(Some(-5), "no message"),
        0,
    ),
    shape(
        "an error without a code",
        r#"{"id":{id},"error":{"message":"no"}}"#,
        Failure(None, "no"),
        0,
    ),
    shape(
        "a code of text",
        r#"{"id":{id},"error":{"code":"E1","message":"no"}}"#,
        Failure(None, "no"),
        0,
    ),
    shape(
        "a code with a fraction",
        r#"{"id":{id},"error":{"code":-32000.0,"message":"no"}}"#,
        Failure(Some(-32000), "no"),
        0,
    ),
    shape(
        "words that are null",
        r#"{"id":{id},"error":{"code":-5,"message":null}}"#,
        Failure(Some(-5), "no message"),
        0,
    ),
    shape(
        "data that is null",
        r#"{"id":{id},"error":{"code":-5,"message":"no","data":null}}"#,
        Failure(Some(-5), "no"),
        0,
    ),
    shape("an id of text", r#"{"id":"{id}","result":1}"#, One, 0),
    shape("an id with a fraction", r#"{"id":{id}.0,"result":1}"#, One, 0),
    shape(
        "an error for the id null",
        r#"{"id":null,"error":{"code":-32700,"message":"parse"}}"#,
        Failure(Some(-32700), "parse"),
        0,
    ),
    shape(
        "an error without an id",
        r#"{"error":{"code":-32700,"message":"parse"}}"#,
        Failure(Some(-32700), "parse"),
        0,
    ),
    shape("nothing but an id", r#"{"jsonrpc":"2.0","id":{id}}"#, Malformed, 1),
    shape("more members", r#"{"id":{id},"result":1,"usIn":1,"sessionId":"x"}"#, One, 0),
    shape("null for a method", r#"{"id":{id},"method":null,"params":null,"result":1}"#, One, 0),
    shape("the method told again", r#"{"id":{id},"method":"m","result":1}"#, One, 0),
    shape("a bad one behind it", r#"[{"id":{id},"result":1},{"odd":1}]"#, One, 1),
    shape("a bad one before it", r#"[{"odd":1},{"id":{id},"result":1}]"#, One, 1),
    shape("null behind it", r#"[{"id":{id},"result":1},null]"#, One, 1),
    shape("an array in a batch", r#"[[1,2,3,4],{"id":{id},"result":1}]"#, One, 1),
    shape("no JSON behind it", r#"[{"id":{id},"result":1},{"id":2,]"#, One, 1),
    shape("an empty batch first", "[]\n{\"id\":{id},\"result\":1}", One, 1),
    shape(
        "a stranger first",
        "{\"id\":\"other\",\"result\":0}\n{\"id\":{id},\"result\":1}",
        One,
        1,
    ),
    shape(
        "1.0: an event",
        "{\"method\":\"t\",\"params\":[],\"id\":null}\n{\"id\":{id},\"result\":1}",
        One,
        0,
    ),
    shape("a log line first", "Server listening\n{\"id\":{id},\"result\":1}", One, 1),
    shape("a byte order mark", "\u{feff}{\"id\":{id},\"result\":1}", One, 0),
    shape("twice", "{\"id\":{id},\"result\":1}\n{\"id\":{id},\"result\":2}", One, 0),
    shape("no number", r#"{"id":{id},"result":NaN}"#, Malformed, 1),
    shape("no number, the id last", r#"{"result":[NaN,{"id":9}],"id":{id}}"#, Malformed, 1),
    shape("half an answer", r#"{"id":{id},"result":"hal"#, Malformed, 1),
    shape("an id twice", r#"{"id":{id},"id":{id},"result":1}"#, Malformed, 1),
    shape("half a letter", r#"{"id":{id},"result":"\ud800"}"#, Malformed, 0),
    shape(
        "half a letter in words",
        r#"{"id":{id},"error":{"code":-5,"message":"\ud800"}}"#,
        Failure(Some(-5), "no message"),
        0,
    ),
];

impl Shape {
    pub fn said(&self, request: &Value) -> Vec<String> {
        let id = request["id"].to_string();
        self.said.split('\n').map(|message| message.replace("{id}", &id)).collect()
    }

    #[track_caller]
    pub fn check(&self, answer: &Result<Value, SessionError>) {
        let name = self.name;
        match (&self.told, answer) {
            (One, Ok(value)) => assert_eq!(*value, json!(1), "{name}"),
            (Failure(code, message), Err(error)) => {
                let remote = error.remote().unwrap_or_else(|| panic!("{name}: {error}"));
                assert_eq!((remote.code, &*remote.message), (*code, *message), "{name}");
            }
            (Malformed, Err(error)) => assert!(error.is_malformed(), "{name}: {error}"),
            (told, answer) => panic!("{name}: {told:?} was to be told, and was {answer:?}"),
        }
    }
}

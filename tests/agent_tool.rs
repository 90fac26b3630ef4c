//! The tool server of the example, called as an agent framework calls it.

#![cfg(feature = "monty")]

use std::collections::HashMap;
use std::io::Cursor;

use serde_json::{Value, json};
use sessile::Manager;
use sessile::interpreter::Interpreter;
use sessile::interpreter::monty::MontyManager;

#[path = "../examples/agent_tool.rs"]
mod agent_tool;

/// What is answered to these calls, by id.
fn answers<M>(manager: M, calls: &[(&str, &str)]) -> HashMap<u64, Value>
where
    M: Manager + Send + Sync + 'static,
    M::Instance: Interpreter + Send,
{
    let line = |(id, (conversation, code)): (usize, &(&str, &str))| {
        let arguments = json!({ "code": code, "timeout": 5 });
        json!({ "id": id, "conversation": conversation, "arguments": arguments }).to_string() + "\n"
    };
    let calls: String = calls.iter().enumerate().map(line).collect();
    let mut said = Vec::new();
    agent_tool::serve(manager, Cursor::new(calls), &mut said).unwrap();
    let said = String::from_utf8(said).unwrap();
    let answers = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    answers.map(|answer| (answer["id"].as_u64().unwrap(), answer)).collect()
}

fn one_conversation_one_session<M>(manager: M)
where
    M: Manager + Send + Sync + 'static,
    M::Instance: Interpreter + Send,
{
    let told = answers(
        manager,
        &[
            ("alice", "x = 41\nprint('hello')"),
            ("bob", "x = 'mine'"),
            ("alice", "x + 1"),
            ("bob", "x"),
            ("alice", "1 / 0"),
            ("alice", "x"),
        ],
    );
    let content = |id: u64| told[&id]["content"].as_str().unwrap();
    assert_eq!(told.len(), 6);
    assert_eq!(content(0), "stdout:\n```text\nhello\n```\n");
    assert_eq!(content(2), "result:\n```text\n42\n```\n");
    assert_eq!(content(3), "result:\n```text\n'mine'\n```\n");
    assert!(content(4).contains("ZeroDivisionError: division by zero"), "{}", content(4));
    assert_eq!(content(5), "result:\n```text\n41\n```\n");
    let failed: Vec<_> = (0..6).filter(|id| told[id]["is_error"] == true).collect();
    assert_eq!(failed, [4]);
    assert_eq!(told[&3]["conversation"], "bob");
}

#[test]
fn monty() {
    one_conversation_one_session(MontyManager::new());
}

#[cfg(all(feature = "cpython", unix))]
#[test]
fn cpython() {
    use sessile::interpreter::cpython::CPythonManager;
    one_conversation_one_session(CPythonManager::new().private_dir().spares(1));
    let told = answers(
        CPythonManager::new(),
        &[("a", "x = 1"), ("a", "import os\nos._exit(3)"), ("a", "'x' in dir()")],
    );
    let content = |id: u64| told[&id]["content"].as_str().unwrap();
    assert!(content(1).contains("every variable is gone"), "{}", content(1));
    assert_eq!(content(2), "result:\n```text\nFalse\n```\n");
    let told = answers(CPythonManager::new().python("/no/such/python"), &[("a", "1")]);
    assert!(told[&0]["content"].as_str().unwrap().contains("no interpreter"), "{told:?}");
}

#[test]
fn what_is_no_call_is_answered_too() {
    let mut said = Vec::new();
    agent_tool::serve(MontyManager::new(), Cursor::new("nonsense\n"), &mut said).unwrap();
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!((&said["id"], &said["is_error"]), (&Value::Null, &json!(true)));
}

//! The command `sessile run`, as it is built, run as a user runs it.

#![cfg(all(feature = "cli", feature = "monty", feature = "cpython", unix))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use serde_json::{Value, json};

mod support;

const SESSILE: &str = env!("CARGO_BIN_EXE_sessile");

/// What it said, and how it ended.
struct Said {
    out: String,
    err: String,
    status: ExitStatus,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { out: text(output.stdout), err: text(output.stderr), status: output.status }
    }
}

impl Said {
    #[track_caller]
    fn with_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

fn sessile(arguments: &[&str]) -> Said {
    // Were errors printed with all they carry, this would show.
    let mut command = Command::new(SESSILE);
    let command = command.args(arguments).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command.output().unwrap().into()
}

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn read_json(file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

// ---- cases ------------------------------------------------------------------------------------

#[test]
fn the_main_job_checks_every_cell_and_closes_every_session() {
    let said = sessile(&["run", "--threads", "3"]).with_code(0);
    assert!(said.out.contains("48 cases, 150 cells, 3 threads, each with its own Monty"));
    assert!(said.out.contains("closed from the main thread: 3 closed, 0 failed, 0 still open"));
    assert!(said.out.contains("afterwards: no live instances"));
    assert!(said.out.contains("150 of 150 cells as expected, 0 wrong"), "{}", said.out);
    // No terminal: a line for each quarter, and no codes for one.
    assert_eq!(said.err.lines().count(), 4, "{}", said.err);
    assert!(said.err.ends_with("150 of 150 cells\n"), "{}", said.err);
    assert!(!(said.out + &said.err).contains('\x1b'));
}

#[test]
fn json_is_all_that_is_on_standard_output() {
    let said = sessile(&["run", "--engine", "embedded", "--json"]).with_code(0);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&told["as_expected"], &told["crossed"], &told["ok"]),
        (&150.into(), &0.into(), &true.into())
    );
    assert_eq!(told["threads"].as_array().unwrap().len(), 4);
    assert_eq!(told["while_alive"]["instances"].as_array().unwrap().len(), 4);
    assert_eq!(told["after_close"]["instances"], json!([]));
}

#[test]
fn a_wrong_answer_is_told_and_is_exit_code_1() {
    let cell = json!({ "code": "6 * 7", "expected": { "status": "ok", "result": "43" } });
    let table = json!({ "cases": [{ "id": "odd", "cells": [cell] }] }).to_string();
    let file = write(&folder("wrong"), "cases.json", &table);
    let said = sessile(&["run", &file]).with_code(1);
    assert!(said.out.contains("WRONG  odd [0] result: Some(\"42\"), not \"43\""), "{}", said.out);
    // As the program of the examples was told it.
    sessile(&["run", "--jobs", &file]).with_code(1);
}

// ---- notebooks --------------------------------------------------------------------------------

/// A cell whose value is an image: a dot.
const IMAGE: &str = "\
import base64
class Dot:
    def __repr__(self): return 'a dot'
    def _repr_png_(self):
        return base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')
Dot()
";

#[test]
fn a_python_file_comes_back_as_a_notebook_with_outputs_and_images() {
    let folder = folder("python_file");
    let text = format!(
        "print('hello')\n# %% [markdown]\n# # A title\n\n# %%\nx = 41\nx + 1\n# %% a dot\n{IMAGE}"
    );
    let file = write(&folder, "dots.py", &text);
    let (back, images) = (folder.join("back.ipynb"), folder.join("images"));
    let (back, images) = (back.to_str().unwrap(), images.to_str().unwrap());
    let arguments = ["run", &file, "--engine", "cpython", "-o", back, "--images", images];
    let said = sessile(&arguments).with_code(0);
    assert!(said.out.starts_with("hello\n42\na dot\n"), "{}", said.out);
    assert!(said.out.contains("3 of 3 cells ran, 0 raised, 0 not run"), "{}", said.out);

    let notebook = read_json(back);
    assert_eq!((&notebook["nbformat"], &notebook["nbformat_minor"]), (&4.into(), &5.into()));
    let cells = notebook["cells"].as_array().unwrap();
    let kinds: Vec<_> = cells.iter().map(|cell| cell["cell_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["code", "markdown", "code", "code"]);
    assert_eq!(
        cells[0]["outputs"],
        json!([{ "output_type": "stream", "name": "stdout", "text": ["hello\n"] }])
    );
    assert_eq!(cells[2]["source"], json!(["x = 41\n", "x + 1"]));
    assert_eq!(cells[2]["outputs"][0]["data"], json!({ "text/plain": ["42"] }));
    let png = cells[3]["outputs"][0]["data"]["image/png"].as_str().unwrap();
    assert!(png.starts_with("iVBORw0KGgo"), "{png}");
    assert_eq!(cells[3]["execution_count"], 3);
    let kept = fs::read(Path::new(images).join("dots-3-0.png")).unwrap();
    assert!(kept.starts_with(b"\x89PNG"));

    // What was written can be run, and comes to the same.
    let again = folder.join("again.ipynb");
    sessile(&["run", back, "--engine", "cpython", "-o", again.to_str().unwrap()]).with_code(0);
    assert_eq!(read_json(again.to_str().unwrap()), notebook);
}

#[test]
fn a_notebook_stops_at_a_cell_that_raises_unless_that_is_allowed() {
    let folder = folder("raises");
    let cell = |code: &str, tags: Value| {
        json!({ "cell_type": "code", "metadata": { "tags": tags }, "source": code, "id": code.len().to_string(),
            "execution_count": 7, "outputs": [{ "output_type": "stream", "name": "stdout", "text": "old" }] })
    };
    let cells = [
        cell("1 / 0", json!(["raises-exception"])),
        cell("print('in between')", json!([])),
        cell("[][1]", json!(["other"])),
        cell("print('at the end')", json!([])),
    ];
    let notebook = json!({ "nbformat": 4, "nbformat_minor": 5, "cells": cells,
        "metadata": { "mine": [1], "kernelspec": { "language": "python" } } });
    let file = write(&folder, "raises.ipynb", &notebook.to_string());
    let said = sessile(&["run", &file, "-o", &file]).with_code(1); // in its place
    assert!(said.out.starts_with("in between\n\n"), "{}", said.out);
    assert!(
        said.err.contains("ZeroDivisionError")
            && said.err.contains("IndexError: list index out of range")
    );
    assert!(
        said.out.contains("    2 ") && said.out.contains("IndexError: list index out of range"),
        "{}",
        said.out
    );
    assert!(said.out.contains("3 of 4 cells ran, 2 raised, 1 not run"), "{}", said.out);
    let back = read_json(&file);
    assert_eq!(back["metadata"]["mine"], json!([1]), "what is none of ours stays");
    let error = &back["cells"][2]["outputs"][0];
    assert_eq!(
        (&error["ename"], &error["evalue"]),
        (&"IndexError".into(), &"list index out of range".into())
    );
    // A cell that did not run has no output from another time.
    let last = &back["cells"][3];
    assert_eq!((&last["outputs"], &last["execution_count"]), (&json!([]), &Value::Null));

    let said = sessile(&["run", &file, "--allow-errors"]).with_code(0);
    assert!(said.out.starts_with("in between\nat the end\n"), "{}", said.out);
    let said = sessile(&["run", &file, "--json"]).with_code(1);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(told["ran"][1]["execution"]["outputs"][0]["text"], "in between\n");
    assert_eq!((&told["ok"], told["ran"].as_array().unwrap().len()), (&false.into(), 3));
}

#[test]
fn a_session_that_is_lost_ends_the_notebook_and_keeps_what_there_was() {
    let folder = folder("lost");
    let file =
        write(&folder, "lost.py", "print('so far', flush=True)\nimport os; os._exit(3)\n# %%\n1\n");
    let back = folder.join("back.ipynb");
    let back = back.to_str().unwrap();
    let said = sessile(&["run", &file, "-e", "cpython", "-o", back]).with_code(1);
    assert!(said.out.starts_with("so far\n"), "{}", said.out);
    let cell = &read_json(back)["cells"][0];
    assert_eq!(cell["outputs"][0]["text"], json!(["so far\n"]));
    assert_eq!(cell["outputs"][1]["ename"], "SessionLost");
}

#[test]
fn a_cell_that_takes_too_long_is_stopped_and_the_limit_is_asked_for() {
    let file = write(&folder("long"), "long.py", "while True: pass\n");
    let said = sessile(&["run", &file, "--timeout", "0.2"]).with_code(1);
    assert!(
        said.out.contains("0 not run") && said.err.contains("KeyboardInterrupt"),
        "{}",
        said.out
    );
}

// ---- faces ------------------------------------------------------------------------------------

#[test]
fn help_is_help_and_no_error() {
    let said = sessile(&["run", "--help"]).with_code(0);
    assert!(said.out.contains("Usage: sessile run [OPTIONS] [FILE]") && said.err.is_empty());
    assert!(sessile(&["--help"]).with_code(0).out.contains("Commands:\n  run"));
    assert!(sessile(&["--version"]).with_code(0).out.starts_with("sessile 0."));
    sessile(&[]).with_code(2);
}

/// What is wrong, with what, and what to do; on one line; never a backtrace.
#[test]
fn a_reader_that_leaves_ends_it_without_a_word() {
    use std::process::{Command, Stdio};

    let mut child = Command::new(SESSILE)
        .args(["run", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take()); // before it has said anything
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(output.status.code(), Some(141), "{said}");
}

#[test]
fn errors_are_a_line_that_says_what_to_do() {
    let folder = folder("errors");
    let notes = write(&folder, "notes.txt", "");
    let odd = write(&folder, "odd.ipynb", "{}");
    let table = write(&folder, "cases.json", "{\"cases\": []}");
    let r =
        "{\"nbformat\": 4, \"cells\": [], \"metadata\": {\"kernelspec\": {\"language\": \"R\"}}}";
    let r = write(&folder, "r.ipynb", r);
    let gone = folder.join("gone.py");
    let gone = gone.to_str().unwrap();
    let said: [(&[&str], String); 9] = [
        (&["run", gone], format!("{gone}: No such file or directory (os error 2)")),
        (&["run", &notes], format!("{notes}: no jobs end in `.txt`; what can be run is a notebook (`.ipynb`), Python (`.py`, with `# %%` between cells) or a table of cases (`.json`)")),
        (&["run", &odd], format!("{odd}: this is no notebook: it has no `nbformat`")),
        (&["run", &table], "there is nothing to run: the table has no cases".into()),
        (&["run", &r], "the notebook is in R, and Monty runs Python; `--engine jupyter --kernel NAME` runs what the gateway has".into()),
        (&["run", "-o", "x.ipynb"], "--output x.ipynb writes a notebook, and a table of cases is none: run an `.ipynb` or a `.py`".into()),
        (&["run", "--confine"], "--confine holds CPython only: `--engine cpython --confine`".into()),
        (&["run", "--gateway", "http://127.0.0.1:1"], "--gateway, --start-gateway and --kernel are for `--engine jupyter`".into()),
        (&["run", "-e", "jupyter"], "--engine jupyter needs a gateway: --gateway URL or --start-gateway".into()),
    ];
    for (arguments, wanted) in said {
        let got = sessile(arguments).with_code(2);
        assert_eq!((got.err, got.out), (format!("error: {wanted}\n"), String::new()));
    }
    assert!(
        sessile(&["run", "-t", "0"]).with_code(2).err.contains("at least one thread has to work")
    );
    assert!(
        sessile(&["run", "-e", "lua"])
            .with_code(2)
            .err
            .contains("[possible values: monty, cpython, fallback, jupyter]")
    );
}

/// On a terminal, which Python's `pty` is.
fn on_a_terminal(no_color: bool) -> String {
    let script =
        "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = Command::new("python3");
    command.args(["-c", script, SESSILE, "run"]).stdin(Stdio::null()).env("TERM", "xterm-256color");
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env_remove("CLICOLOR");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let said = Said::from(command.output().unwrap()).with_code(0);
    said.out
}

#[test]
fn on_a_terminal_there_is_a_bar_and_colour_only_where_it_is_wanted() {
    let coloured = on_a_terminal(false);
    assert!(coloured.contains(" of 150 cells, ") && coloured.contains(" left"), "{coloured:?}");
    assert!(coloured.contains("\x1b[36m"), "{coloured:?}");
    let plain = on_a_terminal(true);
    assert!(plain.contains(" of 150 cells, ") && !plain.contains("\x1b[36m"), "{plain:?}");
}

#[test]
fn a_signal_ends_the_sessions_too() {
    use std::io::{BufRead, BufReader};

    let text = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(3600)\n";
    let file = write(&folder("signal"), "sleeps.py", text);
    let mut command = Command::new(SESSILE);
    let command = command.args(["run", &file, "-e", "cpython"]).stdin(Stdio::null());
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut pid, mut reader) = (String::new(), BufReader::new(running.stdout.take().unwrap()));
    reader.read_line(&mut pid).unwrap();
    let python = Path::new("/proc").join(pid.trim());
    let terminate = Command::new("kill").args(["-TERM", &running.id().to_string()]).status();
    assert!(terminate.unwrap().success());
    let status = support::promptly("the command ends", move || running.wait().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    support::poll_until("the session has ended", || !python.exists());
    drop(reader); // without one it would have ended for that
}

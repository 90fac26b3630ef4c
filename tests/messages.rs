//! What we say when something goes wrong, side by side, so that it can be read as a whole: `said.txt` has
//! errors as a caller meets them, `all.txt` every sentence in the source.
//!
//! A sentence says what is wrong, with which value, and, where that is not plain, what to do. After a
//! change, `SESSILE_BLESS=1 cargo test --all-features --test messages` writes the files anew: read them.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use anyhow::Context as _;
use sessile::{Pool, PoolError, Registry, Workers, from_fn, try_from_fn};

#[track_caller]
fn is_as_written(file: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages").join(file);
    if env::var_os("SESSILE_BLESS").is_some() {
        fs::write(&path, now).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = now.lines().zip(written.lines()).find(|(now, written)| now != written);
    assert!(now == written, "{file} is out of date (SESSILE_BLESS=1 writes it): {differs:?}");
}

fn assert_error<E: Error + Send + Sync + 'static>() {}

#[test]
fn every_public_error_goes_where_errors_go() {
    use std::rc::Rc;
    assert_error::<PoolError>();
    assert_error::<sessile::pool::BuildError>();
    // Whatever the work that comes back with them is.
    assert_error::<sessile::task::JoinError>();
    assert_error::<sessile::task::JoinError<Box<dyn FnOnce(&mut Rc<u8>) + Send>>>();
    assert_error::<sessile::event_loop::PostError<Box<dyn FnOnce() + Send>>>();
    #[cfg(feature = "_interpreter")]
    assert_error::<sessile::interpreter::InterpreterError>();
    #[cfg(feature = "_session")]
    {
        assert_error::<sessile::session::SessionError>();
        assert_error::<sessile::session::RemoteError>();
        assert_error::<sessile::session::Malformed>();
        assert_error::<sessile::session::Unsupported>();
    }
}

/// An error as `anyhow` prints it: it, then each cause.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(said, "\n    because: {error}").unwrap();
        cause = error.source();
    }
    said
}

#[test]
fn errors_are_said_as_they_are_written_down() {
    let mut said = String::new();
    let mut note = |what: &str, error: &(dyn Error + 'static)| {
        writeln!(said, "{what}\n    {}\n", chain(error)).unwrap();
    };
    let registry = Registry::new();
    let numbers = || Pool::builder(from_fn(|_| 0)).name("numbers").registry(&registry);

    let failing = || {
        let open = || Err::<u8, _>(io::Error::from(io::ErrorKind::NotFound));
        try_from_fn(move |_| open().context("opening `sales.db`"))
    };
    let pool = Pool::builder(failing()).name("sales").build().unwrap();
    note("the manager fails", &pool.with(|_| ()).unwrap_err());

    let pool = Pool::builder(failing()).name("sales").registry(&registry);
    let hour = Duration::from_secs(3600);
    let pool = pool.create_backoff(hour, hour).build().unwrap();
    pool.with(|_| ()).unwrap_err();
    let error = pool.with(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("the pool `sales` could not create an instance lately"));

    let pool = numbers().build().unwrap();
    let within = pool.with(|_| pool.with(|_| ()).unwrap_err()).unwrap();
    note("a use inside a use", &within);
    let _ = pool.close(Duration::ZERO);
    note("a use of a pool that is closed", &pool.with(|_| ()).unwrap_err());

    let pool = numbers().max_size(1).build().unwrap();
    let kept = pool.get().unwrap();
    let full = std::thread::scope(|scope| {
        scope.spawn(|| pool.get_timeout(Duration::ZERO).map(drop).unwrap_err()).join().unwrap()
    });
    drop(kept);
    let said_full = full.to_string();
    assert!(
        said_full.starts_with("the pool `numbers` is full: it may have 1 instance, and none "),
        "{said_full}"
    );

    for (what, builder) in [
        ("`max_size(0)`", numbers().max_size(0)),
        ("`idle_timeout(0 s)`", numbers().idle_timeout(Duration::ZERO)),
    ] {
        note(what, &builder.build().map(drop).unwrap_err());
    }

    let workers = Workers::builder(numbers()).threads(1).build().unwrap();
    let error = workers.submit(|_| panic!("no such table: sales")).unwrap().join().unwrap_err();
    note("work that panics", &error);
    let broken = Pool::builder(failing()).name("sales").registry(&registry);
    let broken = Workers::builder(broken).threads(1).build().unwrap();
    let error = broken.submit(|_| ()).unwrap().join().unwrap_err();
    note("work whose worker has no instance", &error);
    assert!(workers.shutdown(Duration::from_secs(60)).is_clean());
    note("work for workers that have ended", &workers.submit(|_| ()).map(drop).unwrap_err());
    is_as_written("said.txt", &said);
}

/// The text of each string in a source file, in order; comments and attributes are skipped.
fn strings(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("//") || rest.starts_with("#[") || rest.starts_with("#![") {
            rest = after_line(rest);
        } else if let Some((text, after)) = raw_string(rest) {
            found.push(text.to_owned());
            rest = after;
        } else if next == '"' {
            let (text, after) = string(&rest[1..]);
            found.push(text);
            rest = after;
        } else if next == '\'' {
            rest = after_character(rest);
        } else if next.is_alphanumeric() || next == '_' {
            rest = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        } else {
            rest = &rest[next.len_utf8()..];
        }
    }
    found
}

fn after_line(rest: &str) -> &str {
    rest.find('\n').map_or("", |end| &rest[end..])
}

/// A lifetime is one character, a character in quotes is several.
fn after_character(rest: &str) -> &str {
    let inside = &rest[1..];
    let length = match inside.chars().next() {
        Some('\\') => inside[2..].find('\'').map(|end| end + 3),
        Some(one) if inside[one.len_utf8()..].starts_with('\'') => Some(one.len_utf8() + 1),
        _ => None,
    };
    length.map_or(inside, |length| &inside[length..])
}

fn raw_string(rest: &str) -> Option<(&str, &str)> {
    let inside = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r')?;
    let hashes = inside.len() - inside.trim_start_matches('#').len();
    let inside = inside[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    inside.split_once(&end)
}

/// An ordinary string after its opening quote. A line that is continued is one line.
fn string(inside: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = inside.char_indices();
    while let Some((at, next)) = characters.next() {
        match next {
            '"' => return (text, &inside[at + 1..]),
            '\\' => match characters.next() {
                Some((at, '\n')) => {
                    let spaces = inside[at + 1..].len() - inside[at + 1..].trim_start().len();
                    for _ in 0..spaces {
                        characters.next();
                    }
                }
                Some((_, escaped)) => text.extend(['\\', escaped]),
                None => break,
            },
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    (text, "")
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_sentence_in_the_source_is_in_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    let mut all = String::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        if name.ends_with("models.rs") || ["compile_fail.rs", "fuzz.rs"].contains(&&*name) {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        // Tests are at the end of their file.
        let source = source.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        // What is no sentence has no blank in it: names of fields and headers, formats.
        let is_said = |text: &String| {
            let text = text.trim();
            text.contains(' ') && text.contains(char::is_alphabetic) && text.len() < 300
        };
        let said: Vec<_> = strings(source).into_iter().filter(is_said).collect();
        if !said.is_empty() {
            writeln!(all, "{name}").unwrap();
            said.iter().for_each(|text| writeln!(all, "    {}", text.trim()).unwrap());
        }
    }
    is_as_written("all.txt", &all);
}

#[test]
fn the_list_sees_strings_and_nothing_else() {
    let source = r##"
        // "no comment"
        fn f<'a>(x: &'a str) { g('"', '\'', "a \"b\"", r#"raw "one""#, "two \
            lines"); } // "not this"
    "##;
    assert_eq!(strings(source), [r#"a \"b\""#, r#"raw "one""#, "two lines"]);
}

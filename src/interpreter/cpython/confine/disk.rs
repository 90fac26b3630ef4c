//! How much a session's directory holds: the kernel has no limit for one, so somebody has to look.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often one looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How many entries are looked at. More of them than that are too many, whatever they hold.
const MOST_ENTRIES: u64 = 20_000;

#[derive(Debug)]
pub(super) struct Watch {
    dir: PathBuf,
    most: u64,
    /// Not before this.
    next: Mutex<Instant>,
}

impl Watch {
    pub(super) fn new(dir: &Path, most: u64) -> Self {
        Self { dir: dir.to_owned(), most, next: Mutex::new(Instant::now() + PAUSE) }
    }

    /// Says what the directory holds, if that is too much; looks at most every 250 ms.
    pub(super) fn look(&self) -> Option<String> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < *next {
            return None;
        }
        let held = size(&self.dir);
        // Where looking takes long it is done more seldom.
        *next = Instant::now() + PAUSE.max(now.elapsed() * 10);
        match held {
            Ok(held) if held <= self.most => None,
            Ok(held) => {
                Some(format!("its directory holds {held} bytes, and may hold {}", self.most))
            }
            Err(what) => Some(format!("its directory holds {what}")),
        }
    }
}

/// The bytes on the disk below this directory; or what there is that cannot be counted: a cell could
/// hide anything in it. What goes while one looks is not counted.
fn size(dir: &Path) -> Result<u64, String> {
    let (mut bytes, mut entries, mut todo) = (0, 0, vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        let listed = match fs::read_dir(dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("a directory that cannot be looked into ({error})")),
        };
        for entry in listed.flatten() {
            entries += 1;
            if entries > MOST_ENTRIES {
                return Err(format!("more than {MOST_ENTRIES} files"));
            }
            let Ok(found) = entry.metadata() else { continue };
            bytes += found.blocks() * 512;
            if found.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

//! What must not outlive this process, written down for as long as it exists.
//!
//! A process that is killed closes nothing. So before something is made that would stay behind, a
//! *lease* is written: a small file that says how to find it. When the thing has been closed, the
//! file is removed. What is found written down by a process that is gone has been left behind, and
//! whoever comes next [reclaims](reclaim_since) it.
//!
//! ```text
//! <temporary files>/sessile-<user>/   nobody but this user may look into it
//!     lock                            held by whoever adds or removes an owner
//!     <owner>/lock                    held by the owner while it lives
//!     <owner>/<number>.<kind>         a lease, as JSON; held by who is reclaiming the thing
//! ```
//!
//! Whether an owner lives is asked of its lock, which the system lets go of when the process ends,
//! in whatever way; process ids, which are given out anew, are not relied on. A fork of the owner
//! holds the lock too.
//!
//! Who reclaims a thing holds its lease meanwhile, so that two never do, and nothing is lost if that
//! one is killed as well. What cannot be removed stays written down where it is, and is tried again
//! by whoever comes next, for [a week](GIVEN_UP); so leases do not pile up for ever.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys;

/// How long after its owner was found to be gone a thing is still tried to be removed.
const GIVEN_UP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Something of ours that is written down. Dropping it says that the thing is no more.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
}

/// What came of [`reclaim`](super::reclaim).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// How many things were found that a process that is gone had left, and are there no more.
    pub removed: usize,
    /// How many could not be removed. They are tried again at the next attempt, for a week.
    pub kept: usize,
}

impl Reclaimed {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { removed: self.removed + other.removed, kept: self.kept + other.kept }
    }
}

/// This process, as long as it has leases.
struct Owner {
    process: u32,
    dir: PathBuf,
    /// Held, not used.
    _lock: File,
    /// Leases that are held now.
    held: usize,
    /// Leases that were ever taken.
    count: u64,
}

/// An owner that is gone, and has left something.
struct Gone {
    dir: PathBuf,
    /// When that was first found.
    since: SystemTime,
}

static OWNER: Mutex<Option<Owner>> = Mutex::new(None);

fn owner() -> MutexGuard<'static, Option<Owner>> {
    OWNER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    /// Writes down what is about to be made, and gives back its description. `describe` is told a
    /// name that no other lease has.
    ///
    /// # Errors
    ///
    /// There is nowhere to write.
    pub(crate) fn take<T: Serialize>(
        kind: &str,
        describe: impl FnOnce(&str) -> T,
    ) -> io::Result<(Self, T)> {
        let mut owner = owner();
        let owner = Owner::of_this_process(&mut owner)?;
        owner.count += 1;
        let name = owner.dir.file_name().unwrap_or_default().to_string_lossy();
        let what = describe(&format!("{name}-{}", owner.count));
        let path = owner.dir.join(format!("{}.{kind}", owner.count));
        write(&path, &what)?;
        owner.held += 1;
        Ok((Self { path }, what))
    }

    /// Writes down what has become known since.
    #[cfg(feature = "jupyter")]
    pub(crate) fn amend<T: Serialize>(&self, what: &T) -> io::Result<()> {
        write(&self.path, what)
    }

    /// The thing stays, and nobody here will close it any more: once this process has ended, it is
    /// for whoever comes next.
    #[cfg(feature = "jupyter")]
    pub(crate) fn leave_behind(self) {
        std::mem::forget(self); // so that the owner is held to be alive as long as the process
    }
}

/// Writes a lease, so that it is never seen half written.
fn write<T: Serialize>(path: &Path, what: &T) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    fs::rename(unfinished, path)
}

/// The kind of what is none yet.
const UNFINISHED: &str = "unfinished";

impl Drop for Lease {
    fn drop(&mut self) {
        let mut owner = owner();
        let process = std::process::id();
        let is_ours = |one: &&mut Owner| one.process == process && self.path.starts_with(&one.dir);
        // A fork leaves alone what it has inherited: it is the parent's.
        if let Some(alive) = owner.as_mut().filter(is_ours) {
            let _ = fs::remove_file(&self.path);
            alive.held -= 1;
            if alive.held == 0 {
                alive.leave();
                *owner = None;
            }
        }
    }
}

impl Owner {
    fn of_this_process(owner: &mut Option<Self>) -> io::Result<&mut Self> {
        let process = std::process::id();
        let inherited = owner.as_ref().is_some_and(|owner| owner.process != process);
        if inherited || owner.is_none() {
            *owner = Some(Self::new(process)?);
        }
        owner.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn new(process: u32) -> io::Result<Self> {
        let base = base()?;
        let _turn = turn(&base)?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let dir = base.join(format!("{process}-{time:x}"));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let lock = File::create_new(dir.join("lock"))?;
        sys::lock(&lock, sys::Wait::No)?;
        Ok(Self { process, dir, _lock: lock, held: 0, count: 0 })
    }

    /// Removes what there is of an owner that has no leases.
    fn leave(&self) {
        if let Some(base) = self.dir.parent()
            && let Ok(_turn) = turn(base)
        {
            remove_if_bare(&self.dir);
        }
    }
}

/// The directory of all owners; it is made if it is missing.
fn base() -> io::Result<PathBuf> {
    let user = sys::user();
    let base = std::env::temp_dir().join(format!("sessile-{user}"));
    match DirBuilder::new().mode(0o700).create(&base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Others may make directories beside it, and could make this one to fool us.
    let found = fs::symlink_metadata(&base)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        let what = format!("{} is not this user's alone", base.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(base)
}

/// Waits for one's turn to add or remove owners. It is over when the file is closed.
fn turn(base: &Path) -> io::Result<File> {
    let lock = File::create(base.join("lock"))?;
    sys::lock(&lock, sys::Wait::Yes)?;
    Ok(lock)
}

/// Removes the directory of an owner if there is nothing in it but its lock.
fn remove_if_bare(dir: &Path) {
    if fs::read_dir(dir).is_ok_and(|entries| entries.count() <= 1) {
        let _ = fs::remove_file(dir.join("lock"));
        let _ = fs::remove_dir(dir);
    }
}

/// Removes what processes that are gone have left of this kind, and is ours to remove.
///
/// `is_ours` is told the name of the owner too: what a lease says may have been written by somebody
/// else, and only names that this owner has given out can be its own. `remove` is told of one thing at a time, and says whether that is no more. It may take long: no
/// lock is held that anybody waits for.
#[cfg(feature = "cpython")]
pub(crate) fn reclaim<T: DeserializeOwned>(
    kind: &str,
    is_ours: impl Fn(&str, &T) -> bool,
    remove: impl FnMut(T) -> bool,
) -> Reclaimed {
    reclaim_since(kind, |owner, _, what| is_ours(owner, what), remove)
}

/// The same; `is_ours` is told as well for how long the owner is known to be gone.
pub(crate) fn reclaim_since<T: DeserializeOwned>(
    kind: &str,
    is_ours: impl Fn(&str, Duration, &T) -> bool,
    mut remove: impl FnMut(T) -> bool,
) -> Reclaimed {
    let mut reclaimed = Reclaimed::default();
    let Ok(base) = base() else {
        return reclaimed; // nowhere to write, so nothing was written
    };
    let gone = owners_gone(&base).unwrap_or_default();
    for Gone { dir, since } in &gone {
        let owner = dir.file_name().unwrap_or_default().to_string_lossy();
        let gone_for = since.elapsed().unwrap_or_default();
        let is_old = gone_for > GIVEN_UP;
        for path in files(dir).filter(|path| is_of_kind(path, kind)) {
            // Before it is held: another may come for what is not ours. What cannot be read is
            // another version's.
            let what = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            let what = what.filter(|what| is_ours(&owner, gone_for, what));
            if what.is_none() && !is_old {
                continue;
            }
            let Some(_held) = hold(&path) else {
                continue; // another is at it, or has been
            };
            let is_gone = what.map(&mut remove);
            match is_gone {
                Some(true) => reclaimed.removed += 1,
                Some(false) => reclaimed.kept += 1,
                None => {}
            }
            if is_gone == Some(true) || is_old {
                let _ = fs::remove_file(path);
            }
        }
    }
    if let Ok(_turn) = turn(&base) {
        gone.iter().for_each(|gone| remove_if_bare(&gone.dir));
    }
    reclaimed
}

/// Takes over one thing of this kind that a process that is gone has left, the first that is `wanted`.
/// `take` writes it down anew; if it cannot, it stays where it was.
#[cfg(feature = "jupyter")]
pub(crate) fn take_over<T: DeserializeOwned, R>(
    kind: &str,
    wanted: impl Fn(&T) -> bool,
    take: impl FnOnce(T) -> io::Result<R>,
) -> Option<R> {
    let base = base().ok()?;
    let read = |path: &Path| -> Option<T> {
        let what = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        what.filter(&wanted)
    };
    for Gone { dir, .. } in owners_gone(&base).unwrap_or_default() {
        for path in files(&dir).filter(|path| is_of_kind(path, kind)) {
            let Some(what) = read(&path) else { continue };
            let Some(_held) = hold(&path) else { continue };
            let taken = take(what).ok()?;
            let _ = fs::remove_file(path);
            if let Ok(_turn) = turn(&base) {
                remove_if_bare(&dir);
            }
            return Some(taken);
        }
    }
    None
}

/// Takes a lease in hand until the file is closed, unless another has it.
fn hold(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    let is_held = sys::lock(&file, sys::Wait::No).ok()?;
    // It may have been removed between opening it and getting its lock.
    (is_held && file.metadata().ok()?.nlink() > 0).then_some(file)
}

/// The owners that do not live any more.
fn owners_gone(base: &Path) -> io::Result<Vec<Gone>> {
    let _turn = turn(base)?;
    let dirs = files(base).filter(|path| path.is_dir());
    Ok(dirs.filter_map(|dir| Gone::find(dir).ok().flatten()).collect())
}

impl Gone {
    /// To be called when it is one's turn.
    fn find(dir: PathBuf) -> io::Result<Option<Self>> {
        // An owner takes its lock while it has its turn; so one without is none.
        let mut lock = File::options().append(true).create(true).open(dir.join("lock"))?;
        if !sys::lock(&lock, sys::Wait::No)? {
            return Ok(None);
        }
        let unfinished = files(&dir).filter(|path| is_of_kind(path, UNFINISHED));
        unfinished.for_each(|path| _ = fs::remove_file(path));
        // Who finds it first says so in its lock. The file has the time.
        let mut found = lock.metadata()?;
        if found.len() == 0 {
            lock.write_all(b"gone")?;
            found = lock.metadata()?;
        }
        Ok(Some(Self { dir, since: found.modified()? }))
    }
}

/// What there is in a directory; nothing, if that is not there.
fn files(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_of_kind(path: &Path, kind: &str) -> bool {
    path.extension().is_some_and(|found| found == kind)
}

//! What must not outlive this process, written down for as long as it exists.
//!
//! A process that is killed closes nothing. So before something is made that would stay behind, a
//! *lease* is written: a small file that says how to find it. When the thing has been closed, the
//! file is removed. What is found written down by a process that is gone has been left behind, and
//! whoever comes next [reclaims](reclaim) it.
//!
//! ```text
//! <temporary files>/sessile-<user>/   nobody but this user may look into it
//!     lock                            held by whoever adds or removes an owner
//!     <owner>/lock                    held by the owner while it lives
//!     <owner>/<number>.<kind>         a lease, as JSON
//!     <owner>/left-<..>.<kind>        taken over from an owner that is gone
//! ```
//!
//! Whether an owner lives is asked of its lock, which the system lets go of when the process ends,
//! in whatever way; process ids, which are given out anew, are not relied on. A fork of the owner
//! holds the lock too.
//!
//! A lease that is taken over is moved to the directory of who takes it, so that two never reclaim
//! the same thing, and nothing is lost if that one is killed as well.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys;

/// Something of ours that is written down. Dropping it says that the thing is no more.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
}

/// What came of [`reclaim`](super::reclaim).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// How many things were found that a process that is gone had left, and were removed.
    pub removed: usize,
    /// How many could not be removed; the next attempt will try again.
    pub kept: usize,
}

/// This process, as long as it has leases.
struct Owner {
    process: u32,
    dir: PathBuf,
    /// Held, not used.
    _lock: File,
    /// Leases that are held now.
    held: usize,
    /// Leases that were ever taken, and such as were taken over.
    count: u64,
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
        fs::write(&path, serde_json::to_vec(&what)?)?;
        owner.held += 1;
        Ok((Self { path }, what))
    }
}

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

/// Removes what processes that are gone have left of this kind.
///
/// `remove` is told of one thing at a time, and says whether that is no more; it may take long, and
/// no lock is held that others than reclaimers of this process wait for.
pub(crate) fn reclaim<T: DeserializeOwned>(
    kind: &str,
    mut remove: impl FnMut(T) -> bool,
) -> Reclaimed {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut reclaimed = Reclaimed::default();
    let Ok((hold, ())) = Lease::take("reclaim", |_| ()) else {
        return reclaimed; // nowhere to write, so nothing was written
    };
    for path in take_over(kind).unwrap_or_default() {
        // What cannot be read was torn when its owner was killed, before the thing was made.
        let what = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if what.is_none_or(&mut remove) {
            let _ = fs::remove_file(path);
            reclaimed.removed += 1;
        } else {
            reclaimed.kept += 1;
        }
    }
    drop(hold);
    reclaimed
}

/// Moves the leases of all owners that are gone into our own directory; all such as are there.
fn take_over(kind: &str) -> io::Result<Vec<PathBuf>> {
    let (base, mut owner) = (base()?, owner());
    let owner = Owner::of_this_process(&mut owner)?;
    let _turn = turn(&base)?;
    let is_of_kind = |path: &Path| path.extension().is_some_and(|found| found == kind);
    for dir in fs::read_dir(&base)?.flatten().map(|entry| entry.path()) {
        if dir == owner.dir || !dir.is_dir() {
            continue;
        }
        // An owner takes its lock while it has its turn; so one without is none.
        let lock = File::open(dir.join("lock"));
        if lock.is_ok_and(|lock| !matches!(sys::lock(&lock, sys::Wait::No), Ok(true))) {
            continue;
        }
        for path in fs::read_dir(&dir)?.flatten().map(|entry| entry.path()) {
            if is_of_kind(&path) {
                owner.count += 1;
                fs::rename(&path, owner.dir.join(format!("left-{}.{kind}", owner.count)))?;
            } else if is_of_kind_reclaim(&path) {
                fs::remove_file(path)?;
            }
        }
        remove_if_bare(&dir);
    }
    let ours = fs::read_dir(&owner.dir)?.flatten().map(|entry| entry.path());
    let is_left = |path: &PathBuf| {
        is_of_kind(path)
            && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("left-"))
    };
    Ok(ours.filter(is_left).collect())
}

/// The lease by which a reclaimer keeps its own directory stands for nothing.
fn is_of_kind_reclaim(path: &Path) -> bool {
    path.extension().is_some_and(|found| found == "reclaim")
}

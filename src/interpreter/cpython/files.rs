//! What goes into a session's own directory, and comes out of it, past whatever cells make there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
#[cfg(all(feature = "confine", target_os = "linux"))]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use super::CPython;
#[cfg(all(feature = "confine", target_os = "linux"))]
use crate::sys;

impl CPython {
    /// Writes a file into the session's own directory, and the directories on the way to it.
    ///
    /// # Errors
    ///
    /// The session has [no directory of its own](super::CPythonManager::private_dir), the path is absolute
    /// or leads out of it, there is something of that name that is no regular file, or writing
    /// fails. It never waits for a cell, as opening a pipe with a name would.
    pub fn put_file(&self, name: impl AsRef<Path>, data: impl AsRef<[u8]>) -> io::Result<()> {
        let (dir, name) = (self.own_dir()?, name.as_ref());
        self.make_parents(&dir, name)?;
        let mut file = open(&dir, name, OpenOptions::new().write(true).create(true))?;
        self.hand_over(&file)?;
        file.set_len(0)?;
        file.write_all(data.as_ref())
    }

    /// Reads a file from the session's own directory.
    ///
    /// # Errors
    ///
    /// As for [`put_file`](Self::put_file); so is a link that a cell has made to somewhere else. A
    /// file that is larger than [`max_file`](super::CPythonManager::max_file) is not read
    /// (`FileTooLarge`).
    pub fn take_file(&self, name: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let name = name.as_ref();
        let file = open(&self.own_dir()?, name, OpenOptions::new().read(true))?;
        let most = self.manager.settings.max_file;
        let size = file.metadata()?.len();
        let too_large = |size: &str| {
            let name = name.display();
            let what = format!("{name} is larger than max_file allows: {size} of {most} bytes");
            io::Error::new(io::ErrorKind::FileTooLarge, what)
        };
        if size > most {
            return Err(too_large(&size.to_string()));
        }
        let mut data = Vec::new();
        // A cell may be writing to it.
        file.take(most.saturating_add(1)).read_to_end(&mut data)?;
        if data.len() as u64 > most {
            return Err(too_large("more"));
        }
        Ok(data)
    }

    /// The files in the session's own directory and below it, by name; links are left out.
    ///
    /// # Errors
    ///
    /// The session has no directory of its own, or it cannot be read.
    pub fn files(&self) -> io::Result<Vec<PathBuf>> {
        let dir = self.own_dir()?;
        let (mut todo, mut files) = (vec![PathBuf::new()], Vec::new());
        while let Some(at) = todo.pop() {
            let entries = if at.as_os_str().is_empty() { dir.entries() } else { dir.read_dir(&at) };
            for entry in entries? {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, at.join(entry.file_name()));
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_file() {
                    files.push(path);
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// The session's own directory, and a path below it.
    ///
    /// It is held by a descriptor, and every step of the path is taken from there: a cell may be
    /// putting links in its way meanwhile, and none leads out.
    fn own_dir(&self) -> io::Result<Dir> {
        let missing = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the session has no directory of its own: ask for one by `private_dir`",
            )
        };
        Dir::open_ambient_dir(self.private_dir().ok_or_else(missing)?, ambient_authority())
    }

    /// Makes the directories on the way to a file. The session may write into them, whoever runs it.
    fn make_parents(&self, dir: &Dir, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> =
            path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
        above.reverse();
        for above in above {
            match dir.create_dir(above) {
                Ok(()) => {
                    // A cell may have put something else there meanwhile, and a pipe would hold us up.
                    let only = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
                    let mut options = OpenOptions::new();
                    self.hand_over(dir.open_with(above, options.read(true).custom_flags(only))?)?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives a file to the user that the session runs as, if that is another.
    #[cfg_attr(not(all(feature = "confine", target_os = "linux")), allow(clippy::unused_self))]
    fn hand_over(&self, file: impl AsFd) -> io::Result<()> {
        #[cfg(all(feature = "confine", target_os = "linux"))]
        if let Some((user, group)) = self.enforcement().map(|enforcement| enforcement.user)
            && user != sys::user()
            && is_nowhere_else(&file)?
        {
            return std::os::unix::fs::fchown(file, Some(user), Some(group));
        }
        let _ = file;
        Ok(())
    }
}

/// A file that has another name, outside, may be somebody's: it is not given away.
#[cfg(all(feature = "confine", target_os = "linux"))]
fn is_nowhere_else(file: &impl AsFd) -> io::Result<bool> {
    let found = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(found.is_dir() || found.nlink() <= 1)
}

/// Opens a regular file, and nothing else: a pipe, a device or a socket might have us wait for ever.
fn open(dir: &Dir, path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let refused = || {
        let what = format!("{} is no regular file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    // Looked at before it is opened, for opening alone may do something to a device.
    match dir.metadata(path) {
        Ok(found) if !found.is_file() => return Err(refused()),
        _ => {}
    }
    // It may have become another since. What is opened does not block, and is looked at again.
    let file = dir.open_with(path, options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY))?;
    if file.metadata()?.is_file() { Ok(file.into_std()) } else { Err(refused()) }
}

//! What goes into a session's own directory, and comes out of it, past whatever cells make there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use super::CPython;

impl CPython {
    /// Writes a file into the session's own directory, and the directories on the way to it.
    ///
    /// # Errors
    ///
    /// The session has [no directory of its own](CPythonManager::private_dir), the path is absolute
    /// or leads out of it, there is something of that name that is no regular file, or writing
    /// fails. It never waits for a cell, as opening a pipe with a name would.
    pub fn put_file(&self, name: impl AsRef<Path>, data: impl AsRef<[u8]>) -> io::Result<()> {
        let path = self.inside(name.as_ref())?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let path = self.inside(name.as_ref())?;
        let mut file = open(&path, OpenOptions::new().write(true).create(true))?;
        file.set_len(0)?;
        file.write_all(data.as_ref())
    }

    /// Reads a file from the session's own directory.
    ///
    /// # Errors
    ///
    /// As for [`put_file`](Self::put_file); so is a link that a cell has made to somewhere else. A
    /// file that is larger than [`max_file`](CPythonManager::max_file) is not read
    /// (`FileTooLarge`).
    pub fn take_file(&self, name: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let name = name.as_ref();
        let file = open(&self.inside(name)?, OpenOptions::new().read(true))?;
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
        let root = self.inside(Path::new(""))?;
        let (mut todo, mut files) = (vec![root.clone()], Vec::new());
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    todo.push(entry.path());
                } else if kind.is_file() {
                    files.extend(entry.path().strip_prefix(&root).map(Path::to_owned));
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Where a name leads, if that is in the session's own directory.
    fn inside(&self, name: &Path) -> io::Result<PathBuf> {
        let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let root = self.private_dir().ok_or_else(|| refused("the session has no directory"))?;
        if !name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(refused("the path leads out of the session's directory"));
        }
        // Links on the way are followed, as far as they stay inside.
        let path = root.join(name);
        let mut existing = path.as_path();
        while fs::symlink_metadata(existing).is_err() {
            existing = existing.parent().ok_or_else(|| refused("the directory is gone"))?;
        }
        if !existing.canonicalize()?.starts_with(root.canonicalize()?) {
            return Err(refused("the path leads out of the session's directory"));
        }
        Ok(path)
    }
}

/// Opens a regular file, and nothing else: a pipe, a device or a socket might have us wait for ever.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let refused = || {
        let what = format!("{} is no regular file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    // Looked at before it is opened, for opening alone may do something to a device.
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(refused()),
        _ => {}
    }
    // It may have become another since. What is opened does not block, and is looked at again.
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused()) }
}

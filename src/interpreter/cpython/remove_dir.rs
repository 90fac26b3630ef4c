//! Removes a session's directory, whatever a cell has made in it.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Permissions, PermissionsExt as _};

/// Removes a directory and all below it, whatever a cell has made there.
///
/// A cell may have nested directories by the ten thousand, or made some that nobody may read. So this
/// neither goes down one into the other, which would take a descriptor and a stack frame for each, nor
/// gives up at a mode: what lies two levels down is moved up by one, until nothing has anything below
/// it. No link is followed.
///
/// # Errors
///
/// Something is another user's, or the system refuses. What could be removed is gone.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    let top = match Dir::open_ambient_dir(path, ambient_authority()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let (mut moved, mut failed) = (0_u64, None);
    loop {
        let before = moved;
        for entry in top.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            let removed = if entry.file_type()?.is_dir() {
                empty(&top, &name, &mut moved).and_then(|()| top.remove_dir(&name))
            } else {
                top.remove_file(&name)
            };
            failed = removed.err().or(failed);
        }
        if moved == before {
            return std::fs::remove_dir(path).map_err(|error| failed.unwrap_or(error));
        }
    }
}

/// Empties a directory: removes its files, and moves its directories up into `top`.
fn empty(top: &Dir, name: &OsString, moved: &mut u64) -> io::Result<()> {
    make_ours(top, name);
    let dir = top.open_dir(name)?;
    for entry in dir.entries()? {
        let entry = entry?;
        let inner = entry.file_name();
        if !entry.file_type()?.is_dir() {
            dir.remove_file(&inner)?;
            continue;
        }
        make_ours(&dir, &inner); // to be moved, it has to be one that we may write into
        loop {
            *moved += 1;
            match dir.rename(&inner, top, format!("sessile-moved-{moved}")) {
                // A cell has taken the name, for something that is not empty or no directory.
                Err(error) if is_taken(&error) => {}
                other => break other?,
            }
        }
    }
    Ok(())
}

/// Gives a directory a mode that lets us empty it. It may be another user's: then that shows later.
fn make_ours(above: &Dir, name: &OsString) {
    let _ = above.set_permissions(name, Permissions::from_mode(0o700));
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn made() -> PathBuf {
        let path = std::env::temp_dir().join(format!("sessile-remove-{}", std::process::id()));
        let _ = remove_dir(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Deeper than there are descriptors, and than a path may be long; closed to its own user, too.
    #[test]
    fn a_directory_is_removed_whatever_a_cell_has_made_in_it() {
        let path = made();
        let outside = path.with_extension("outside");
        fs::write(&outside, "kept").unwrap();
        symlink(&outside, path.join("link")).unwrap();
        symlink("/", path.join("root")).unwrap();
        let mut at = Dir::open_ambient_dir(&path, ambient_authority()).unwrap();
        for n in 0..1_200 {
            let name = "n".repeat(200);
            at.create_dir(&name).unwrap();
            let next = at.open_dir(&name).unwrap();
            next.write("file", "some").unwrap();
            if n % 100 == 0 {
                next.create_dir("sessile-moved-7").unwrap();
                next.write("sessile-moved-8", "a file of that name").unwrap();
                next.create_dir("closed").unwrap();
                next.set_permissions("closed", Permissions::from_mode(0o300)).unwrap();
            }
            at = next;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o300)).unwrap();
        remove_dir(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "kept");
        fs::remove_file(outside).unwrap();
        remove_dir(&path).unwrap(); // what is not there is removed
    }
}

//! Packages of npm's, pinned, installed once under `target/`.

#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The folder in which these packages, as in `ws@8.18.3`, can be found by `require` and `import`. `None`,
/// and the reason on standard error, if they cannot be had here.
pub fn packages(wanted: &[&str]) -> Option<PathBuf> {
    let temporary = env!("CARGO_TARGET_TMPDIR");
    let target = Path::new(temporary).parent().expect("it is a folder of `target`");
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    let home = target.join("npm").join(format!("{:016x}", hasher.finish()));
    let done = home.join("is-complete");

    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.exists() {
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("package.json"), "{\"private\": true}").unwrap();
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund"]).args(wanted);
        match install.current_dir(&home).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return super::skipped(&format!("npm cannot install {wanted:?}: {said}"));
            }
            Err(error) => return super::skipped(&format!("npm cannot be run: {error}")),
        }
        File::create(done).unwrap();
    }
    Some(home)
}

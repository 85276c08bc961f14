//! A small file system for Postgres, which can be filled.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

/// In memory, and small: filling it should take no time.
pub struct Disk {
    folder: PathBuf,
    /// Ends the mount when its standard input closes, however this process ends.
    watchdog: Mutex<Option<(Child, ChildStdin)>>,
}

impl Disk {
    /// Nothing, if this machine does not allow it: that takes root.
    pub fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("livestore-chaos-disk-").tempdir().ok()?.keep();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=400m,mode=755", "livestore-chaos"])
            .arg(&folder)
            .stderr(Stdio::null())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self { folder, watchdog: Mutex::new(None) });
        }
        let _ = std::fs::remove_dir(folder);
        None
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves the end of this process to end the mount, once this folder on it is gone.
    pub fn unmount_after(&self, last: &Path) {
        let (folder, last) = (self.folder.display(), last.display());
        let script = format!(
            "cat > /dev/null; for n in $(seq 100); do [ -e {last} ] || break; sleep 0.2; done; \
             umount {folder} || umount -l {folder}; rmdir {folder}"
        );
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn().expect("a shell");
        let stdin = child.stdin.take().expect("stdin");
        *self.watchdog.lock().expect("no panic") = Some((child, stdin));
    }

    /// Leaves no room for anything.
    pub fn fill(&self) {
        let zeros = vec![0; 1 << 20];
        let Ok(mut file) = std::fs::File::create(self.ballast()) else { return };
        while file.write_all(&zeros).is_ok() {}
    }

    /// Makes room again.
    pub fn clear(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

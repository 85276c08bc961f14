//! A program that a test starts as a user would, and that ends what it has started itself when it is told to end.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::watchdog;

/// The time that it may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child that ends with the test, whatever becomes of that.
pub struct Program(Child);

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().expect("a program");
        watchdog::watch_program(child.id());
        Self(child)
    }
}

impl Deref for Program {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let start = Instant::now();
        let mut is_told = false;
        while matches!(self.0.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            if !std::mem::replace(&mut is_told, true) {
                let _ = Command::new("kill").arg(self.0.id().to_string()).status();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_program_that_nobody_needs_any_more_is_told_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let [begun, ended] = ["begun", "ended"].map(|name| folder.path().join(name));
        let script = "trap 'touch \"$1\"; exit' TERM; touch \"$0\"; while :; do sleep 0.05; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).args([&begun, &ended]).stdin(Stdio::null());
        let program = Program::start(&mut command);
        let start = Instant::now();
        while !begun.exists() {
            assert!(start.elapsed() < PATIENCE, "it has not begun");
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(program);
        assert!(ended.exists());
    }
}

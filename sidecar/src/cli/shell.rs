//! For the shell and `man`: completions and manual pages, made of the same description as `--help`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub fn print(&self, mut program: Command) -> ExitCode {
        let name = program.get_name().to_string();
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut text);
        print(&text)
    }
}

#[derive(Debug, Args)]
pub struct ManualPages {
    /// The subcommand, nested ones too: shards init, for example. Without it, the page of the program.
    command: Vec<String>,
}

impl ManualPages {
    pub fn print(&self, mut program: Command) -> ExitCode {
        program.build();
        let mut page = &program;
        for name in &self.command {
            match page.find_subcommand(name) {
                Some(command) => page = command,
                None => {
                    eprintln!("livestore-sidecar: there is no subcommand {}", self.command.join(" "));
                    return ExitCode::from(2);
                }
            }
        }
        let mut text = Vec::new();
        match clap_mangen::Man::new(page.clone()).render(&mut text) {
            Ok(()) => print(&text),
            Err(_) => ExitCode::FAILURE,
        }
    }
}

fn print(text: &[u8]) -> ExitCode {
    if std::io::stdout().write_all(text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

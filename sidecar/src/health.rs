//! `livestore-sidecar health`: a container's health check, so that an image needs no other program for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

/// The time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Health {
    /// The address at which the sidecar serves.
    #[arg(long, env = "LIVESTORE_LISTEN", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,

    /// The address of its probes, if it is another.
    #[arg(long, env = "LIVESTORE_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
}

impl Health {
    /// Whether the sidecar that listens on this address, or on all of this machine's (0.0.0.0), says that it lives.
    pub fn ask(&self) -> ExitCode {
        let address = self.health_listen.unwrap_or(self.listen);
        match status_line(address, "/healthz") {
            Ok(line) if is_ok(&line) => ExitCode::SUCCESS,
            Ok(line) => fail(address, &line),
            Err(error) => fail(address, &error.to_string()),
        }
    }
}

/// Whether the sidecar that listens on an address answers 200 at a path.
pub fn is_fine(address: SocketAddr, path: &str) -> bool {
    status_line(address, path).is_ok_and(|line| is_ok(&line))
}

fn is_ok(line: &str) -> bool {
    line.starts_with("HTTP/1.1 200")
}

fn status_line(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or("no answer").into())
}

fn fail(address: SocketAddr, why: &str) -> ExitCode {
    eprintln!("livestore-sidecar: {address} is not healthy: {why}");
    ExitCode::FAILURE
}

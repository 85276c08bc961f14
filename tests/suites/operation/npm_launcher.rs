//! `npx livestore-sidecar`: the packages as they are packed, installed by npm.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use livestore_tests::cluster::Database;
use livestore_tests::program::Program;
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::sidecar::Start;
use livestore_tests::{eventually, free_port, root};

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Installs packed packages into a folder, as npm does it without a network.
fn install(folder: &Path, packages: &[String]) -> std::path::PathBuf {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("package.json"), "{}").unwrap();
    run(Command::new("npm")
        .args(["install", "--offline", "--no-audit", "--no-fund"])
        .args(packages)
        .current_dir(folder));
    folder.join("node_modules/.bin/livestore-sidecar")
}

#[tokio::test]
async fn the_launcher_runs_the_program_of_this_platform_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let platform = format!("linux-{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" });
    let program = Start::program();
    let pack = |out: &str| -> Vec<String> {
        let packed = run(Command::new(root().join("packaging/npm/pack"))
            .arg(folder.path().join(out))
            .arg(format!("{platform}={}", program.get_program().display()))
            .env("GITHUB_REPOSITORY", "somebody/livestore_sync")
            .env("LIVESTORE_LICENCES", root().join("LICENSE")));
        String::from_utf8(packed.stdout).unwrap().lines().map(String::from).collect()
    };
    let packages = pack("packed");
    let [of_platform, launcher] = &packages[..] else { panic!("{packages:?}") };
    // npm publishes nothing with a provenance that does not name where it comes from.
    for package in [of_platform, launcher] {
        let description = run(Command::new("tar").args(["-xzOf", package, "package/package.json"])).stdout;
        let description: serde_json::Value = serde_json::from_slice(&description).unwrap();
        assert_eq!(description["repository"]["url"], "git+https://github.com/somebody/livestore_sync.git");
    }
    run(Command::new("tar").args(["-tzf", of_platform, "package/THIRD-PARTY-LICENSES"]));
    let readme = run(Command::new("tar").args(["-xzOf", launcher, "package/README.md"])).stdout;
    let readme = String::from_utf8_lossy(&readme);
    assert!(readme.contains("npx livestore-sidecar dev") && !readme.contains("Not published yet"), "{readme}");
    let again = pack("again");
    for (one, other) in packages.iter().zip(&again) {
        assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap(), "{one} is another one when packed again");
    }

    let launch = install(&folder.path().join("app"), &[launcher.clone(), of_platform.clone()]);
    let version = run(Command::new(&launch).arg("--version"));
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("livestore-sidecar {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(Command::new(&launch).arg("--no-such").stderr(Stdio::null()).status().unwrap().code(), Some(2));

    // A signal of a supervisor to the launcher reaches the program, which ends as it does by itself.
    let database = Database::new().await;
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let start = |command: &mut Command| {
        let arguments = ["--listen", &listen, "--shutdown-delay", "0s"];
        Program::start(command.args(arguments).env("DATABASE_URL", database.url("sidecar")))
    };
    let mut child = start(Command::new(&launch).stderr(Stdio::null()));
    let serves = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    eventually("the sidecar serves", || async { serves() }).await;
    run(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!serves());

    // Ctrl-C reaches both, and the launcher passes it on: the program is told twice, and ends as it does when it is told once.
    let log = folder.path().join("log");
    let mut child = start(Command::new(&launch).stderr(std::fs::File::create(&log).unwrap()).process_group(0));
    eventually("the sidecar serves", || async { serves() }).await;
    let mut client = Rpc::connect(&format!("ws://127.0.0.1:{port}/websocket?storeId=s")).await;
    run(Command::new("kill").args(["-s", "INT", "--", &format!("-{}", child.id())]));
    assert_eq!(client.closed().await, Received::Close(1012));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("shutting down") && !log.contains("interrupted again"), "{log}");

    let launch = install(&folder.path().join("without"), std::slice::from_ref(launcher));
    let output = Command::new(&launch).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains(&format!("no program for {platform}")), "{error}");
}

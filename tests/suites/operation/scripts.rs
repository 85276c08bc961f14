//! The shell scripts: each says what failed, and there is one list of what they install.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use livestore_tests::{PATIENCE, root};

/// The files that git knows, or would.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    names.lines().filter(|name| root().join(name).is_file()).map(str::to_owned).collect()
}

/// The scripts with their names.
fn scripts() -> Vec<(String, String)> {
    let text = |name: &String| std::fs::read_to_string(root().join(name)).ok();
    let is_script = |text: &str| text.starts_with("#!") && text.lines().next().is_some_and(|line| line.ends_with("sh"));
    files().into_iter().filter_map(|name| text(&name).filter(|text| is_script(text)).map(|text| (name, text))).collect()
}

#[test]
fn every_script_says_which_command_failed() {
    // One that becomes another, one that runs in an image, and dpkg's own, of which dpkg speaks.
    let others =
        [".ci/run", "extension/create-extension.sh", "packaging/postinst", "packaging/postrm", "packaging/prerm"];
    let silent: Vec<_> = scripts()
        .into_iter()
        .filter(|(name, text)| !others.contains(&&**name) && !text.contains("/strict.sh\"\n"))
        .map(|(name, _)| name)
        .collect();
    assert!(scripts().len() > 20, "{}", scripts().len());
    assert_eq!(silent, [""; 0], "these do not source packaging/strict.sh");
}

/// Runs a script of these lines behind the shared beginning, and returns its status and what it printed.
fn run(lines: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let script: PathBuf = folder.path().join("script");
    let begin = format!(". {0}/packaging/strict.sh\n. {0}/tests/scripts/checks.sh\n", root().display());
    std::fs::write(&script, format!("{begin}{lines}")).unwrap();
    let output = Command::new("bash").arg(&script).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), text)
}

#[test]
fn a_script_that_fails_names_the_command_and_its_line() {
    for lines in
        ["true\nmissing=$(false | sort)\necho on", "f() {\n    missing=$(cat /nowhere)\n    echo on\n}\nf\necho on"]
    {
        let (status, text) = run(lines);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains("script, line 4: this command failed with status 1: "), "{text}");
        assert!(!text.contains("on\n") || !text.ends_with("on\n"), "{text}");
    }
}

#[test]
fn the_end_of_what_a_failed_check_printed_is_beside_its_name() {
    let (status, text) = run(
        "a_check() {\n    echo 'thread main panicked at its line:\nwhy'\n    seq 100\n    echo 'the reason'\n    false\n    echo never\n}\n\
         check good true\ncheck bad a_check\nrunner counted echo '3 passed, 1 failed'\nrunner crashed false\nfinish",
    );
    assert_eq!(status, Some(1), "{text}");
    let (_, summary) = text.split_once("failed: bad\n").unwrap_or_else(|| panic!("{text}"));
    assert!(summary.contains("| the reason") && summary.contains("line 8: this command failed"), "{text}");
    assert!(summary.contains("| thread main panicked at its line:\n    | why\n"), "{text}");
    assert!(!text.contains("never"), "{text}");
    assert!(text.ends_with("\n4 passed, 3 failed\n"), "{text}");

    let (status, text) =
        run("slow() { sleep 0.3; echo 'it was slow'; return $1; }\nbegin good slow 0\nbegin bad slow 3\n\
         check other echo first\ncheck good await good\ncheck bad await bad\nfinish");
    assert_eq!(status, Some(1), "{text}");
    assert!(text.find("first") < text.find("it was slow"), "{text}");
    assert!(text.contains("failed: bad\n") && text.ends_with("\n2 passed, 1 failed\n"), "{text}");

    let (status, text) = run("check good true\nfinish");
    assert_eq!((status, text.ends_with("\n1 passed, 0 failed\n")), (Some(0), true), "{text}");
    // No test at all is no success.
    assert_eq!(run("finish").0, Some(1));
}

#[test]
fn a_runner_without_a_test_has_failed() {
    let none = "none() { echo 'test result: ok. 0 passed; 0 failed; 0 ignored'; }\n";
    let (status, text) = run(&format!("{none}check good true\nrunner stale none\nfinish"));
    assert_eq!((status, text.ends_with("\n1 passed, 1 failed\n")), (Some(1), true), "{text}");
    assert!(text.contains("failed: stale: it ran no test\n"), "{text}");
    // One of the programs of a suite may have none.
    let (status, text) =
        run(&format!("{none}two() {{ none; echo 'test result: ok. 2 passed; 0 failed;'; }}\nrunner two two\nfinish"));
    assert_eq!((status, text.ends_with("\n2 passed, 0 failed\n")), (Some(0), true), "{text}");
}

#[test]
fn only_a_last_line_has_the_sums_of_everything_before_it() {
    let (_, text) =
        run("nested() {\n    echo 'test result: FAILED. 5 passed; 2 failed;'\n    echo '1 passed, 0 failed'\n    \
         echo 'error: test failed'\n    false\n}\nrunner nested nested\nfinish");
    assert!(text.ends_with("\n5 passed, 2 failed\n"), "{text}");
    let (_, text) =
        run("nested() {\n    echo 'test result: ok. 5 passed; 0 failed;'\n    echo '7 passed, 1 failed'\n    \
         echo 'make: *** [Makefile:1: test] Error 1'\n    exit 1\n}\nrunner nested nested\nfinish");
    assert!(text.ends_with("\n7 passed, 1 failed\n"), "{text}");
}

/// `Ctrl-C` in a terminal goes to the script and to the command in front.
#[test]
fn a_script_that_is_interrupted_leaves_no_folder_and_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let (names, script) = (folder.path().join("names"), folder.path().join("script"));
    let lines = format!(
        ". {0}/packaging/strict.sh\n. {0}/tests/scripts/checks.sh\nlong() {{ sleep 1000 & echo $! >> {1}; wait; }}\n\
         echo \"$scratch\" > {1}\nbegin beside long\ncheck front sleep 1000\nfinish\n",
        root().display(),
        names.display()
    );
    std::fs::write(&script, lines).unwrap();
    // A runner in the background of a script ignores Ctrl-C.
    let mut bash = Command::new("env");
    bash.args(["--default-signal=INT", "bash"]).arg(&script).stdout(Stdio::null()).process_group(0);
    let mut child = bash.spawn().unwrap();
    let (start, names) = (Instant::now(), || std::fs::read_to_string(&names).unwrap_or_default());
    while names().lines().count() < 2 {
        assert!(start.elapsed() < PATIENCE, "{}", names());
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-s", "INT", "--", &format!("-{}", child.id())]).status().unwrap();
    child.wait().unwrap();
    let names = names();
    let (scratch, sleeps) = names.trim().split_once('\n').unwrap();
    assert!(!Path::new(scratch).exists(), "{scratch} is left");
    while Path::new("/proc").join(sleeps).exists() {
        assert!(start.elapsed() < PATIENCE, "{sleeps} is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_installed_that_the_list_does_not_name() {
    let list = std::fs::read_to_string(root().join("packaging/prerequisites")).unwrap();
    let named: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for (name, text) in scripts() {
        if name == "packaging/install-prerequisites" {
            continue;
        }
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some((_, packages)) = line.split_once(" install -y --no-install-recommends ") else {
                assert!(!line.contains("apt-get install") && !line.contains("apt install"), "{name}: {line}");
                continue;
            };
            for package in packages.split_whitespace().take_while(|word| *word != ">") {
                let package = package.trim_matches(['"', '\'']).replace("$major", "$PG_MAJOR");
                assert!(named.contains(&&*package), "{name} installs {package}, which packaging/prerequisites lacks");
            }
        }
    }
}

#[test]
fn what_a_command_takes_is_listed() {
    let list = |commands: &[&str]| {
        let script = root().join("packaging/install-prerequisites");
        let output = Command::new(script).arg("--list").args(commands).env("PG_MAJOR", "17").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, packages) = list(&["build", "run"]);
    assert_eq!(status, Some(0));
    for package in ["gcc", "clang", "postgresql-17", "postgresql-server-dev-17"] {
        assert!(packages.lines().any(|line| line == package), "{package}: {packages}");
    }
    assert!(!packages.contains("chromium"), "{packages}");
    assert_eq!(list(&["build", "nonsense"]).0, Some(2));
}

/// The default is the version that the machine has, then the one that its distribution has.
#[test]
fn no_version_of_postgres_is_taken_for_granted() {
    let folder = tempfile::tempdir().unwrap();
    let installed = folder.path().join("installed");
    let apt = folder.path().join("apt-cache");
    std::fs::write(
        &apt,
        "#!/bin/sh\nprintf 'postgresql\\n  Depends: postgresql-%s\\n  Suggests: postgresql-doc\\n' \"$OFFERED\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&apt, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let which = |offered: &str, wanted: Option<&str>| {
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut script = Command::new(root().join("packaging/which-pg-major"));
        script.env_remove("PG_MAJOR").env("PATH", path).env("POSTGRES_FOLDER", &installed).env("OFFERED", offered);
        if let Some(wanted) = wanted {
            script.env("PG_MAJOR", wanted);
        }
        let output = script.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    // Ubuntu 22.04, Debian 12, Ubuntu 24.04, Debian 13.
    for offered in ["14", "15", "16", "17"] {
        assert_eq!(which(offered, None), offered);
    }
    for major in ["14", "16"] {
        let bin = installed.join(major).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(&apt, bin.join("initdb")).unwrap();
    }
    assert_eq!(which("15", None), "16", "the newest that is installed");
    assert_eq!(which("15", Some("14")), "14");
}

/// Cargo reads no workspace that lacks a member.
#[test]
fn the_images_are_built_from_every_member_of_the_workspace() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (manifest, ignored) = (read("Cargo.toml"), read(".dockerignore"));
    let (_, members) = manifest.split_once("members = [").unwrap();
    let members: Vec<&str> = members.split(']').next().unwrap().split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 5, "{members:?}");
    for member in members {
        let kept =
            |line: &str| line.strip_prefix('!').is_some_and(|kept| format!("{member}/Cargo.toml").starts_with(kept));
        assert!(ignored.lines().any(kept), ".dockerignore leaves out {member}");
    }
}

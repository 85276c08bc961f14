//! The extension from a folder of its own, as CloudNativePG mounts the image of packaging/cloudnative-pg/Dockerfile.

use std::path::Path;
use std::process::Command;

use livestore_tests::cluster::{Cluster, bin};
use livestore_tests::events::chain;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap();
        if name.to_string_lossy().starts_with("livestore_sync") {
            std::fs::copy(&file, to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extension_is_created_from_a_folder_of_its_own() {
    let cluster = tokio::task::spawn_blocking(Cluster::start_empty).await.unwrap().leak();
    let superuser = cluster.connect("postgres", "postgres").await;
    let version: i32 =
        superuser.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    if version < 180_000 {
        eprintln!("skipped: extension_control_path is of PostgreSQL 18");
        return;
    }
    let folder = tempfile::tempdir_in(cluster.folder()).unwrap();
    Command::new("chmod").args(["a+rx"]).arg(folder.path()).status().unwrap();
    for (question, within, to) in [("--pkglibdir", "", "lib"), ("--sharedir", "extension", "share/extension")] {
        let answer = Command::new(bin("pg_config")).arg(question).output().unwrap();
        let from = Path::new(String::from_utf8(answer.stdout).unwrap().trim()).join(within);
        copy(&from, &folder.path().join(to));
    }
    // Before the folders in which it is installed, too.
    let at = folder.path().display();
    for setting in
        [format!("extension_control_path = '{at}/share:$system'"), format!("dynamic_library_path = '{at}/lib:$libdir'")]
    {
        superuser.batch_execute(&format!("alter system set {setting}")).await.unwrap();
    }
    superuser.batch_execute("select pg_reload_conf()").await.unwrap();
    let session = cluster.connect("postgres", "postgres").await;
    session.batch_execute("create extension livestore_sync").await.unwrap();
    session.execute("select livestore.push('s', $1::text::json)", &[&chain(0, 1).to_string()]).await.unwrap();
    let maps: String = session.query_one("select pg_read_file('/proc/self/maps')", &[]).await.unwrap().get(0);
    assert!(maps.contains(&format!("{at}/lib/livestore_sync")), "{maps}");
}

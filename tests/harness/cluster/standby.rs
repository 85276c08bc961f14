//! A standby that has each commit before the primary answers, and what happens to the two of them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Cluster, as_postgres, new_folder, place, postgres_command, run};
use crate::{PATIENCE, eventually};

impl Cluster {
    /// A standby that has each commit before this cluster answers.
    pub async fn standby(&self) -> Self {
        self.standby_in(&std::env::temp_dir()).await
    }

    /// The same with its folder in this one.
    pub async fn standby_in(&self, parent: &Path) -> Self {
        let (port, parent, environment) = (self.port, parent.to_path_buf(), self.environment.clone());
        let copying = tokio::task::spawn_blocking(move || {
            let folder = new_folder(&parent);
            copy(port, &folder.join("data"));
            Self::run(folder, "", &environment)
        });
        let standby = copying.await.expect("a standby");
        self.wait_for_standby().await;
        standby
    }

    /// Makes a primary that was killed the standby of its successor. Its data is thrown away, because it may have commits that
    /// nobody was told of.
    pub async fn follow(&'static self, primary: &Self) {
        let port = primary.port;
        let copying = tokio::task::spawn_blocking(move || {
            let data = self.folder.join("data");
            // A start by which it frees the shared memory that it has left behind, and serves nobody.
            run(postgres_command("postgres").args(["--single", "-D"]).arg(&data).arg("postgres"));
            run(as_postgres(Path::new("rm")).arg("-r").arg(&data));
            copy(port, &data);
            place(&self.folder, self.port);
            self.pg_ctl(&["start"]);
        });
        copying.await.expect("a standby");
        primary.wait_for_standby().await;
    }

    /// Answers nobody from now on before the standby has what was committed. A standby is copied before that, and so works
    /// alone once it is promoted.
    async fn wait_for_standby(&self) {
        let admin = self.connect("postgres", "postgres").await;
        admin.batch_execute("alter system set synchronous_standby_names = '*'").await.expect("a setting");
        admin.batch_execute("select pg_reload_conf()").await.expect("a setting");
        eventually("the standby has everything", || async {
            let is_sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            admin.query_one(is_sync, &[]).await.expect("a count").get::<_, i64>(0) == 1
        })
        .await;
        // The process that does this is also the one that tells all others to wait.
        admin.batch_execute("checkpoint").await.expect("a checkpoint");
    }

    /// Waits until the standby has everything that anybody may have seen. Later commits wait for the standby, but earlier ones
    /// may not have: a session that is terminated while it waits, and a primary that is started again, show commits that the
    /// standby does not have yet.
    pub async fn standby_catches_up(&self) {
        let admin = self.connect("postgres", "postgres").await;
        let now = admin.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("a position");
        let now: String = now.get(0);
        eventually("the standby has caught up", || async {
            let has_all = "select count(*) from pg_stat_replication
                           where sync_state = 'sync' and flush_lsn >= $1::text::pg_lsn";
            admin.query_one(has_all, &[&now]).await.expect("a count").get::<_, i64>(0) == 1
        })
        .await;
    }

    /// Ends it as a machine that loses its power does.
    pub fn kill(&self) {
        self.kill_with(None);
    }

    /// The same together with a process group, which has been stopped.
    pub(super) fn kill_with(&self, group: Option<u32>) {
        let pid = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("it runs");
        let pid = pid.lines().next().expect("a number");
        // Stopped, it starts no others. Killed before them, it would be missed: sessions that wait for a standby give up then,
        // and for a moment others see what they have committed.
        run(Command::new("kill").arg("-STOP").arg(pid));
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
        let mut kill = Command::new("kill");
        kill.args(["-KILL", "--"])
            .args(children.split_whitespace())
            .arg(pid)
            .args(group.map(|group| format!("-{group}")));
        let _ = kill.stderr(Stdio::null()).status();
        // As long as init has not noticed, the next server takes it for one that runs.
        let start = Instant::now();
        while Path::new("/proc").join(pid).exists() {
            assert!(
                start.elapsed() < PATIENCE,
                "nobody takes notice that a process has ended: what is process 1 here?"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The data of the cluster at this port, ready to follow it.
fn copy(port: u16, data: &Path) {
    run(postgres_command("pg_basebackup")
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string(), "--checkpoint=fast"])
        .arg("--write-recovery-conf")
        .arg("-D")
        .arg(data));
}

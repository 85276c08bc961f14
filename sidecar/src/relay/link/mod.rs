//! The link to other sidecars: one connection to Postgres, which tells them who is online here, brings them messages, and
//! hears what they say. Devices use its [`handle`]; each life of the connection is a [`session`].
//!
//! While it is broken, messages are lost in both directions. Once it is back, whoever may have missed one is told to connect
//! again, here and elsewhere: devices that connect ask for what they missed.

mod handle;
mod session;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

pub use self::handle::LinkHandle;

use self::handle::Command;
use self::session::{LinkSession, RENEWAL};
use super::SidecarId;
use super::hub::Hub;
use crate::postgres::{Backoff, Database, DatabaseError};
use crate::telemetry::chain;

/// The messages of one statement.
const GROUP_COMMANDS: usize = 512;
const GROUP_BYTES: usize = 1 << 20;

/// Tells the database that all sidecars meet at.
type Home = Box<dyn Fn() -> Database + Send>;

/// Carries out the commands, on one connection after the other.
pub struct LinkTask {
    /// Tells the database to connect to.
    home: Home,
    /// The one of the last connection.
    database: Database,
    hub: Arc<Hub>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// A command that does not fit into the group before it.
    next: Option<Command>,
    /// The name of the last life of the connection.
    previous: Option<SidecarId>,
    /// That life was cut short, or there is no other one although devices need it: some may have missed a message.
    is_broken: bool,
}

/// The reason why a life of the connection ends.
enum End {
    Lost(DatabaseError),
    /// The sidecar ends.
    Exit,
    /// No device is connected, for long.
    Idle,
}

impl From<DatabaseError> for End {
    fn from(error: DatabaseError) -> Self {
        Self::Lost(error)
    }
}

impl LinkTask {
    pub fn new(home: Home, hub: Arc<Hub>) -> (LinkHandle, Self) {
        let (handle, commands) = LinkHandle::new();
        let database = home();
        (handle, Self { home, database, hub, commands, next: None, previous: None, is_broken: false })
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        // As long as no device has connected, there is nobody to tell and nothing to hear.
        while let Some(command) = match self.next.take() {
            None => self.commands.recv().await,
            next => next,
        } {
            if let Command::Exit { done } = command {
                let _ = done.send(());
                break;
            }
            self.next = Some(command);
            if self.keep_up().await.is_break() {
                break;
            }
        }
        self.refuse_all().await;
    }

    /// Connects again when the connection is lost, until no device needs it, or the sidecar ends.
    async fn keep_up(&mut self) -> ControlFlow<()> {
        let first_backoff = || Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut backoff = first_backoff();
        loop {
            self.database = (self.home)();
            if self.database.demand().is_asleep() {
                // The device that it was for has left: one that is there keeps the database awake.
                if let Some(command) = self.next.take() {
                    command.refuse();
                }
                return ControlFlow::Continue(());
            }
            match self.open().await {
                Ok(session) => {
                    info!(sidecar = &*session.id, "relaying to other sidecars");
                    self.previous = Some(session.id.clone());
                    let since = Instant::now();
                    let was_broken = std::mem::take(&mut self.is_broken);
                    match self.serve(session, was_broken).await {
                        End::Exit => return ControlFlow::Break(()),
                        End::Idle => return ControlFlow::Continue(()),
                        End::Lost(error) => {
                            warn!(
                                error = %chain(&error),
                                "the way to other sidecars is lost, reconnecting"
                            );
                        }
                    }
                    if since.elapsed() > RENEWAL {
                        backoff = first_backoff();
                    }
                }
                Err(error) if backoff.attempts() == 0 => {
                    warn!(error = %chain(&error), "other sidecars cannot be reached, trying again");
                }
                Err(_) => {}
            }
            // Before there was a first connection, nothing is known, and everybody waits for it.
            self.is_broken = self.previous.is_some();
            if self.is_broken
                && let Some(command) = self.next.take()
            {
                command.refuse();
            }
            let pause = backoff.sleep();
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(command) = self.commands.recv(), if self.is_broken => command.refuse(),
                }
            }
        }
    }

    async fn refuse_all(&mut self) {
        while let Some(command) = self.commands.recv().await {
            command.refuse();
        }
    }

    /// Connects. If the link is broken, nothing can be sent meanwhile.
    async fn open(&mut self) -> Result<LinkSession, DatabaseError> {
        let opening = LinkSession::open(&self.database, self.previous.as_ref());
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                session = &mut opening => return session,
                Some(command) = self.commands.recv(), if self.is_broken => command.refuse(),
            }
        }
    }

    /// Serves one life of the connection, until it breaks.
    async fn serve(&mut self, mut session: LinkSession, was_broken: bool) -> End {
        if was_broken {
            let missed = self.hub.start_over();
            if let Err(error) = session.tell(&missed).await {
                self.hub.remember(missed);
                return End::Lost(error);
            }
        }
        loop {
            let waiting = self.next.take();
            let demand = self.database.demand().clone();
            let result = tokio::select! {
                biased;
                () = demand.asleep() => {
                    self.next = waiting;
                    // Within bounds; otherwise others find out when its lease ends.
                    let _ = session.exit().await;
                    Err(End::Idle)
                }
                _ = session.renewal.tick() => {
                    self.next = waiting;
                    session.renew(&self.hub).await.map_err(End::Lost)
                }
                news = session.notifications.next(1) => {
                    self.next = waiting;
                    match &news[..] {
                        // A device that missed a message is told to connect again.
                        _ if session.notifications.were_lost() => Err(End::Lost(DatabaseError::Lost)),
                        [notification, ..] => session.hear(&self.hub, notification).await.map_err(End::Lost),
                        [] => Err(End::Lost(DatabaseError::Lost)),
                    }
                }
                command = next_command(waiting.is_some(), &mut self.commands) => match waiting.or(command) {
                    Some(command) => self.carry_out(&mut session, command).await,
                    None => Err(End::Exit),
                },
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// Carries out a command, together with those of its kind that follow.
    async fn carry_out(&mut self, session: &mut LinkSession, command: Command) -> Result<(), End> {
        match command {
            Command::Join { user, client_id, done, .. } => {
                let mut known = HashSet::from([(user.clone(), client_id.clone())]);
                let (mut devices, mut waiting) = (vec![(user, client_id)], vec![done]);
                while let Some(Command::Join { user, client_id, done, .. }) = self.another(devices.len(), |command| {
                    matches!(command, Command::Join { user, client_id, .. } if known.insert((user.clone(), client_id.clone())))
                }) {
                    devices.push((user, client_id));
                    waiting.push(done);
                }
                let result = session.join(&self.hub, &devices).await;
                for done in waiting {
                    let _ = done.send(());
                }
                Ok(result?)
            }
            Command::Leave { user, client_id, connection } => {
                let mut devices = vec![(user, client_id, connection)];
                while let Some(Command::Leave { user, client_id, connection }) =
                    self.another(devices.len(), |command| matches!(command, Command::Leave { .. }))
                {
                    devices.push((user, client_id, connection));
                }
                Ok(session.leave(&devices).await?)
            }
            Command::Send { to, message, done, _room } => {
                let mut bytes = message.len();
                let (mut messages, mut waiting) = (vec![(to, message)], vec![(done, _room)]);
                while bytes < GROUP_BYTES
                    && let Some(Command::Send { to, message, done, _room }) =
                        self.another(messages.len(), |command| matches!(command, Command::Send { .. }))
                {
                    bytes += message.len();
                    messages.push((to, message));
                    waiting.push((done, _room));
                }
                let sent = session.send(&messages).await;
                for (done, _) in waiting {
                    let _ = done.send(matches!(sent, Ok(true)));
                }
                sent.map(drop)?;
                Ok(())
            }
            Command::Exit { done } => {
                let _ = session.exit().await;
                let _ = done.send(());
                Err(End::Exit)
            }
        }
    }

    /// The next command, if there is one that fits.
    fn another(&mut self, len: usize, mut fits: impl FnMut(&Command) -> bool) -> Option<Command> {
        if len >= GROUP_COMMANDS || self.next.is_some() {
            return None;
        }
        let command = self.commands.try_recv().ok()?;
        if fits(&command) {
            return Some(command);
        }
        self.next = Some(command);
        None
    }
}

/// None if there is a command that waits.
async fn next_command(is_waiting: bool, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<Command> {
    if is_waiting { None } else { commands.recv().await }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::log::testing::{asleep, nowhere};

    #[tokio::test]
    async fn commands_of_a_kind_go_together_and_in_their_order() {
        let (link, mut task) = LinkTask::new(Box::new(nowhere), Arc::default());
        for connection in 1..=GROUP_COMMANDS as i64 {
            link.leave(&"user".into(), &"device".into(), connection);
        }
        let is_leave = |command: &Command| matches!(command, Command::Leave { .. });
        for connection in 1..=3 {
            let Some(Command::Leave { connection: next, .. }) = task.another(1, is_leave) else { panic!("none") };
            assert_eq!(next, connection);
        }
        assert!(task.another(GROUP_COMMANDS, is_leave).is_none(), "the group is full");
        assert!(task.another(1, |_| false).is_none());
        // The one that did not fit is next, and none passes it.
        assert!(matches!(task.next, Some(Command::Leave { connection: 4, .. })));
        assert!(task.another(1, is_leave).is_none());
    }

    #[tokio::test]
    async fn a_broken_link_refuses_messages_and_lets_devices_go_on() {
        let (link, mut task) = LinkTask::new(Box::new(nowhere), Arc::default());
        let refusing = async {
            for _ in 0..3 {
                task.commands.recv().await.unwrap().refuse();
            }
        };
        let (user, client_id) = ("user".into(), "device".into());
        let (sent, (), (), ()) =
            tokio::join!(link.send(vec![], "message".into()), link.join(&user, &client_id), link.exit(), refusing);
        assert!(!sent);
        drop(task);
        assert!(!link.send(vec![], "message".into()).await);
    }

    /// Before, the link took the command again and again, and kept its thread.
    #[tokio::test]
    async fn a_link_that_nobody_needs_lets_go_of_the_command_of_a_device_that_has_left() {
        let database = asleep().await;
        let (link, mut task) = LinkTask::new(Box::new(move || database.clone()), Arc::default());
        let (done, joined) = tokio::sync::oneshot::channel();
        let _room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        task.next = Some(Command::Join { user: "user".into(), client_id: "device".into(), done, _room });
        assert!(task.keep_up().now_or_never().is_some_and(|kept| kept.is_continue()) && task.next.is_none());
        joined.await.unwrap();
        link.leave(&"user".into(), &"device".into(), 1);
        tokio::select! {
            () = task.run() => panic!("it runs for ever"),
            () = link.exit() => {}
        }
    }

    /// They come and go while the database is away.
    #[tokio::test]
    async fn devices_that_have_left_do_not_fill_the_memory() {
        let (link, task) = LinkTask::new(Box::new(nowhere), Arc::default());
        for number in 0..100_000 {
            let (user, client_id) = ("user".into(), format!("device {number}").into());
            let joined = tokio::task::unconstrained(link.join(&user, &client_id)).now_or_never();
            assert!(joined.is_none(), "nobody answers");
        }
        assert_eq!(task.commands.len(), 64 << 10);
    }

    /// Before, they waited for the database, as before the first connection.
    #[tokio::test]
    async fn devices_that_connect_after_an_idle_time_go_on_while_the_database_is_away() {
        let (link, mut task) = LinkTask::new(Box::new(nowhere), Arc::default());
        task.previous = Some("before".into());
        let task = tokio::spawn(task.run());
        let (user, client_id) = ("user".into(), "device".into());
        let joined = timeout(Duration::from_secs(10), link.join(&user, &client_id)).await;
        assert!(joined.is_ok() && !link.send(vec![], "message".into()).await);
        task.abort();
    }
}

//! The operator decides what a client may do: by a function in the database, or by a service at a URL.

mod function;
mod url;

use self::function::Function;
pub use self::function::check_authorize_function;
use self::url::Service;
pub use self::url::check_authorize_url;
use crate::auth::Access;
use crate::log::context::Context;
use crate::log::error::Denied;
use crate::log::settings::LogSettings;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError};
use crate::telemetry::refusals::{Asked, Reason};
use crate::webhook::Sender;

/// The action that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Connect,
    Pull,
    Push,
}

impl Action {
    /// As refusals name it.
    pub fn asked(self) -> Asked {
        match self {
            Self::Connect => Asked::Connect,
            Self::Pull => Asked::Pull,
            Self::Push => Asked::Push,
        }
    }

    /// The access that a token must allow for it.
    pub fn access(self) -> Access {
        match self {
            Self::Connect | Self::Pull => Access::Read,
            Self::Push => Access::Write,
        }
    }

    /// The text for a client that the function refuses without one of its own.
    pub fn refusal(self) -> &'static str {
        match self {
            Self::Connect => "not allowed to connect to this store",
            Self::Pull => "not allowed to pull from this store",
            Self::Push => "not allowed to push to this store",
        }
    }
}

/// The operator's answer is no.
fn denied(text: impl Into<String>) -> Denied {
    Denied::new(Reason::Authorize, text)
}

/// Asks the operator.
pub enum Authorizer {
    Function(Function),
    Url(Service),
}

impl Authorizer {
    /// `None` if the operator does not want to be asked.
    pub fn new(settings: &LogSettings, database: &Database, sender: Sender) -> Option<Self> {
        let function = settings.authorize_function.as_ref();
        let function = function.map(|function| Self::Function(Function::new(database.clone(), function.clone())));
        function.or_else(|| settings.authorize_url.as_ref().map(|url| Self::Url(Service::new(url.clone(), sender))))
    }

    /// Whether it can be asked, as far as the database knows.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Function(function) => function.check().await,
            // Other replicas would not reach it either: the clients of this one wait.
            Self::Url(_) => Ok(()),
        }
    }

    /// Asks. `Err` means that nothing was decided, since nobody answers, or the function cannot be called, as in the middle of a
    /// migration. The caller then has to wait, because a client that is refused stops syncing for good.
    pub async fn ask(
        &self,
        store: &StoreId,
        action: Action,
        context: &Context,
    ) -> Result<Result<(), Denied>, DatabaseError> {
        match self {
            Self::Function(function) => function.ask(store, action, context).await,
            Self::Url(service) => service.ask(store, action, context).await,
        }
    }
}

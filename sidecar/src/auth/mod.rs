//! Who a client is: the token that it brings, and what the token says.

mod token;
mod verifier;

use std::sync::Arc;

use axum::http::HeaderMap;
use tokio::time::Instant;

pub use self::verifier::{Refused, Verifier};

/// How clients prove who they are.
pub enum Authentication {
    /// Not at all: they are all one and the same.
    None,
    Jwt(Box<Verifier>),
}

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The `sub` of the token; empty without authentication.
    pub subject: Arc<str>,
    /// When the token ends.
    pub until: Option<Instant>,
}

impl Authentication {
    /// Who sends a request, by the first token in: the header `authorization`, the query parameter `token`, the cookie
    /// `auth_token`. `may_use_cookies`: the request comes from a page that may act in the name of whoever looks at it.
    ///
    /// # Errors
    /// There is no token, or not a good one.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        may_use_cookies: bool,
    ) -> Result<Identity, Refused> {
        match self {
            Self::None => Ok(Identity { subject: "".into(), until: None }),
            Self::Jwt(verifier) => {
                let token = token::find(headers, query, may_use_cookies).ok_or(Refused::Missing)?;
                let claims = verifier.verify(&token)?;
                Ok(Identity { until: claims.until(), subject: claims.subject })
            }
        }
    }
}

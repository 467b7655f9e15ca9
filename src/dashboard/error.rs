//! Why the API did not answer: what the caller asked wrongly, or what the store said. Each has a code for programs and
//! a sentence for people.

use hyper::StatusCode;
use serde::Serialize;

/// An answer of ClickHouse can carry a whole statement; more than this helps nobody on a page.
const MAX_MESSAGE_CHARS: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{name}: {why}")]
    BadParameter { name: String, why: String },
    #[error("no such deployment: {0}")]
    UnknownDeployment(String),
    #[error("there is nothing at {0}; the API is /api/v1/deployments and /api/v1/panel")]
    NotFound(String),
    #[error(
        "this server is not to be called {0:?}: it answers to localhost and its own address, and to each --allow-host"
    )]
    Host(String),
    #[error("only GET and HEAD are answered here")]
    Method,
    #[error("more than {limit} panels are being read; try again")]
    Busy { limit: usize },
    #[error("ClickHouse cannot be reached")]
    Unreachable(#[source] clickhouse::error::Error),
    #[error("ClickHouse did not answer within {seconds} s")]
    Deadline { seconds: u64 },
    #[error("ClickHouse refused the query: {0}")]
    Refused(String),
}

/// What a program reads of an error: `{"error": {"code": …, "message": …}}`.
#[derive(Debug, Serialize)]
pub struct Told {
    pub code: &'static str,
    pub message: String,
}

impl ApiError {
    pub fn bad(name: &str, why: impl Into<String>) -> Self {
        Self::BadParameter {
            name: name.to_owned(),
            why: why.into(),
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadParameter { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownDeployment(_) | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Host(_) => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy { .. } | Self::Unreachable(_) | Self::Deadline { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Refused(_) => StatusCode::BAD_GATEWAY,
        }
    }

    pub fn told(&self) -> Told {
        let code = match self {
            Self::BadParameter { .. } => "bad_parameter",
            Self::UnknownDeployment(_) => "unknown_deployment",
            Self::NotFound(_) => "not_found",
            Self::Host(_) => "host_not_allowed",
            Self::Method => "method_not_allowed",
            Self::Busy { .. } => "busy",
            Self::Unreachable(_) => "clickhouse_unreachable",
            Self::Deadline { .. } => "clickhouse_slow",
            Self::Refused(_) => "clickhouse_refused",
        };
        Told {
            code,
            message: self.to_string(),
        }
    }
}

impl From<clickhouse::error::Error> for ApiError {
    fn from(error: clickhouse::error::Error) -> Self {
        match error {
            clickhouse::error::Error::BadResponse(text) => {
                Self::Refused(text.chars().take(MAX_MESSAGE_CHARS).collect())
            }
            clickhouse::error::Error::Network(_) => Self::Unreachable(error),
            other => Self::Refused(other.to_string().chars().take(MAX_MESSAGE_CHARS).collect()),
        }
    }
}

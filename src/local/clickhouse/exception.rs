//! ClickHouse's exceptions: code and text as the engine words them, and the HTTP status ClickHouse gives each code.
//! Refuses to invent: what the engine said is passed on, only what the face itself refuses is worded here.

use hyper::StatusCode;

/// Codes that the face itself raises. Their numbers are ClickHouse's.
pub mod code {
    pub const CANNOT_OPEN_FILE: u32 = 76;
    pub const BAD_ARGUMENTS: u32 = 36;
    pub const CANNOT_READ_ALL_DATA: u32 = 33;
    pub const SYNTAX_ERROR: u32 = 62;
    pub const UNKNOWN_SETTING: u32 = 115;
    pub const READONLY: u32 = 164;
    pub const QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: u32 = 216;
    pub const QUERY_IS_TOO_LARGE: u32 = 229;
    pub const SESSION_NOT_FOUND: u32 = 372;
    pub const SESSION_IS_LOCKED: u32 = 373;
    pub const INVALID_SESSION_TIMEOUT: u32 = 374;
    pub const HTTP_LENGTH_REQUIRED: u32 = 381;
    pub const QUERY_WAS_CANCELLED: u32 = 394;
    pub const CANNOT_DECOMPRESS: u32 = 271;
    pub const TOO_MANY_ROWS_OR_BYTES: u32 = 396;
    pub const ACCESS_DENIED: u32 = 497;
    pub const UNKNOWN_ROLE: u32 = 511;
    pub const AUTHENTICATION_FAILED: u32 = 516;
    pub const STD_EXCEPTION: u32 = 1001;
}

/// One exception, as it goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Exception {
    pub code: u32,
    /// `Code: N. DB::Exception: …`, without a newline at its end.
    pub text: String,
}

impl Exception {
    /// An exception of the face itself.
    pub fn new(code: u32, message: impl std::fmt::Display) -> Self {
        Self {
            code,
            text: format!("Code: {code}. DB::Exception: {message}"),
        }
    }

    /// What the engine reported. Its text begins with the code; anything else is a `std::exception`.
    pub fn from_engine(text: &str) -> Self {
        let text = text.trim_end();
        let code = text
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split('.').next())
            .and_then(|digits| digits.parse().ok());
        match code {
            Some(code) => Self {
                code,
                text: text.to_owned(),
            },
            None => Self::new(code::STD_EXCEPTION, text),
        }
    }

    /// The status ClickHouse answers with; whatever has no line of its own is 500.
    pub fn status(&self) -> StatusCode {
        match self.code {
            // A password is required.
            194 => StatusCode::UNAUTHORIZED,
            // Users, passwords, grants.
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            // What the client wrote cannot be parsed or makes no sense.
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167
            | 168 | 223 | 321 | 376 | 427 | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            // Something named does not exist.
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => {
                StatusCode::NOT_FOUND
            }
            // The face's own, where a server has no status of its own: the client must change something.
            code::CANNOT_DECOMPRESS | code::INVALID_SESSION_TIMEOUT => StatusCode::BAD_REQUEST,
            code::SESSION_NOT_FOUND => StatusCode::NOT_FOUND,
            code::HTTP_LENGTH_REQUIRED => StatusCode::LENGTH_REQUIRED,
            code::QUERY_IS_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            159 => StatusCode::REQUEST_TIMEOUT,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_code_is_read_from_its_text() {
        let unknown =
            Exception::from_engine("Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)\n");
        assert_eq!(
            (unknown.code, unknown.status()),
            (60, StatusCode::NOT_FOUND)
        );
        assert_eq!(
            unknown.text,
            "Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)"
        );
        assert_eq!(
            Exception::from_engine("bad_alloc").code,
            code::STD_EXCEPTION
        );
        assert_eq!(
            Exception::new(code::ACCESS_DENIED, "no").text,
            "Code: 497. DB::Exception: no"
        );
    }
}

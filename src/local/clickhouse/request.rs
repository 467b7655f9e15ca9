//! One HTTP request of ClickHouse's interface, parsed whole: what to run, as whom, in which database and session, with
//! which settings and parameters, and how body and answer are packed.
//! It refuses other users, unknown roles and malformed parameters; SQL is not looked at here.

use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Uri};

use super::compression::Encoding;
use super::engine::Param;
use super::exception::{Exception, code};

/// How long a session lives after its last query unless the client says; ClickHouse's default and maximum.
const SESSION_TIMEOUT_S: u64 = 60;
const MAX_SESSION_TIMEOUT_S: u64 = 3600;

/// Parameters of the URL that are no settings of the engine. `readonly` is enforced by the face itself, asynchronous
/// inserts would answer before the data is there, and an embedded engine has no other query to replace.
const NO_SETTINGS: &[&str] = &[
    "user",
    "password",
    "stacktrace",
    "buffer_size",
    "quota_key",
    "close_session",
    "client_protocol_version",
    "async_insert",
    "wait_for_async_insert",
];

/// Everything but the body.
#[derive(Debug, Default)]
pub struct Request {
    /// `query` of the URL; the body follows it.
    pub query: String,
    pub database: Option<String>,
    pub query_id: Option<String>,
    pub replace_running_query: bool,
    pub session: Option<SessionRequest>,
    /// Settings of the engine, by name.
    pub settings: Vec<Param>,
    pub params: Vec<Param>,
    pub default_format: Option<String>,
    pub wait_end_of_query: bool,
    /// `GET`, or `readonly` in the URL: nothing is written.
    pub is_readonly: bool,
    pub body_encoding: Vec<Encoding>,
    pub answer_encoding: Option<Encoding>,
    /// The boundary, where the body is a form.
    pub form_boundary: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    pub id: String,
    pub timeout_s: u64,
    /// The session must be there already.
    pub must_exist: bool,
}

impl Request {
    /// # Errors
    /// With ClickHouse's code for what is wrong.
    pub fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, Exception> {
        let pairs = decode_pairs(uri.query().unwrap_or_default())?;
        authenticate(&pairs, headers)?;
        let mut request = Self {
            is_readonly: method == Method::GET || method == Method::HEAD,
            ..Self::default()
        };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        request.database = header("x-clickhouse-database").map(str::to_owned);
        request.default_format = header("x-clickhouse-format").map(str::to_owned);
        request.body_encoding = body_encoding(headers)?;
        request.form_boundary = headers
            .get(CONTENT_TYPE)
            .and_then(|value| boundary(value.to_str().ok()?));
        let accepted = headers
            .get(ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok());
        request.answer_encoding = accepted.and_then(Encoding::accepted);
        let (mut session, mut timeout, mut check) = (None, None, false);
        for (name, value) in pairs {
            match name.as_str() {
                "session_id" => session = Some(value).filter(|id| !id.is_empty()),
                "session_timeout" => timeout = Some(value),
                "session_check" => check = is_true(&value),
                _ => request.set(name, value)?,
            }
        }
        request.session = session
            .map(|id| {
                Ok(SessionRequest {
                    id,
                    timeout_s: session_timeout(timeout.as_deref())?,
                    must_exist: check,
                })
            })
            .transpose()?;
        Ok(request)
    }

    /// One parameter, of the URL or of a form.
    ///
    /// # Errors
    /// When a setting's name is no name, or a role is asked for.
    pub fn set(&mut self, name: String, value: String) -> Result<(), Exception> {
        match name.as_str() {
            "query" => self.query.push_str(&value),
            "database" => self.database = Some(value).filter(|database| !database.is_empty()),
            "query_id" => self.query_id = Some(value).filter(|id| !id.is_empty()),
            "replace_running_query" => self.replace_running_query = is_true(&value),
            "default_format" => {
                self.default_format = Some(value).filter(|format| !format.is_empty())
            }
            "wait_end_of_query" => self.wait_end_of_query = is_true(&value),
            "readonly" => self.is_readonly |= value.trim() != "0",
            "compress" if is_true(&value) => self.answer_encoding = Some(Encoding::Blocks),
            "decompress" if is_true(&value) => self.body_encoding.push(Encoding::Blocks),
            "compress" | "decompress" => {}
            "enable_http_compression" => {
                if !is_true(&value) && self.answer_encoding != Some(Encoding::Blocks) {
                    self.answer_encoding = None;
                }
            }
            "role" if !value.is_empty() => {
                return Err(Exception::new(
                    code::UNKNOWN_ROLE,
                    format!("there is no role {value:?}"),
                ));
            }
            "role" => {}
            known if NO_SETTINGS.contains(&known) => {}
            _ => match name.strip_prefix("param_") {
                Some(param) => self.params.push((param.to_owned(), value)),
                None if is_setting_name(&name) => self.settings.push((name, value)),
                None => {
                    return Err(Exception::new(
                        code::UNKNOWN_SETTING,
                        format!("Unknown setting {name:?}"),
                    ));
                }
            },
        }
        Ok(())
    }
}

/// A setting's name stands in a statement, so nothing else than a name is let through.
fn is_setting_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_true(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

fn session_timeout(value: Option<&str>) -> Result<u64, Exception> {
    let Some(value) = value else {
        return Ok(SESSION_TIMEOUT_S);
    };
    value.parse().ok().filter(|seconds| *seconds <= MAX_SESSION_TIMEOUT_S).ok_or_else(|| {
        let message = format!("session_timeout {value:?} is not a number of at most {MAX_SESSION_TIMEOUT_S} seconds");
        Exception::new(code::INVALID_SESSION_TIMEOUT, message)
    })
}

fn body_encoding(headers: &HeaderMap) -> Result<Vec<Encoding>, Exception> {
    let Some(header) = headers.get(CONTENT_ENCODING) else {
        return Ok(Vec::new());
    };
    match header.to_str().unwrap_or_default() {
        "" | "identity" => Ok(Vec::new()),
        name => Encoding::by_name(name)
            .map(|encoding| vec![encoding])
            .ok_or_else(|| {
                Exception::new(
                    code::BAD_ARGUMENTS,
                    format!("Content-Encoding {name:?} is not lz4, zstd, gzip or deflate"),
                )
            }),
    }
}

fn boundary(content_type: &str) -> Option<String> {
    let rest = content_type.trim_start();
    rest.get(.."multipart/form-data".len())
        .filter(|kind| kind.eq_ignore_ascii_case("multipart/form-data"))?;
    rest.split(';').find_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary")
            .then(|| value.trim_matches('"').to_owned())
    })
}

/// The one user is `default`, without a password.
fn authenticate(pairs: &[Param], headers: &HeaderMap) -> Result<(), Exception> {
    let header = |name: &str| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let url = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let basic = headers
        .get(AUTHORIZATION)
        .map(|value| basic_credentials(value.as_bytes()));
    let users = [
        header("x-clickhouse-user"),
        url("user"),
        basic.clone().map(|(user, _)| user),
    ];
    let keys = [
        header("x-clickhouse-key"),
        url("password"),
        basic.map(|(_, key)| key),
    ];
    let is_default = |user: &String| user.is_empty() || user == "default";
    if users.iter().flatten().all(is_default) && keys.iter().flatten().all(String::is_empty) {
        return Ok(());
    }
    Err(Exception::new(
        code::AUTHENTICATION_FAILED,
        "Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)",
    ))
}

/// `Basic base64(user:password)`. What is malformed yields a password that is no empty one, so it is refused.
fn basic_credentials(header: &[u8]) -> (String, String) {
    let plain = header
        .get(..6)
        .filter(|scheme| scheme.eq_ignore_ascii_case(b"Basic "))
        .and_then(|_| base64(&header[6..]))
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match plain.as_deref().and_then(|plain| plain.split_once(':')) {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (String::new(), "malformed".to_owned()),
    }
}

fn base64(encoded: &[u8]) -> Option<Vec<u8>> {
    let (mut bits, mut n_bits, mut out) = (0_u32, 0, Vec::new());
    for byte in encoded.iter().copied().take_while(|byte| *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            out.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    Some(out)
}

/// `a=b&c=d`, decoded.
fn decode_pairs(query: &str) -> Result<Vec<Param>, Exception> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (decode(name), decode(value)) {
                (Some(name), Some(value)) => Ok((name, value)),
                _ => Err(Exception::new(
                    code::BAD_ARGUMENTS,
                    "the URL is not percent-encoded UTF-8",
                )),
            }
        })
        .collect()
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        method: Method,
        uri: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Request, Exception> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    hyper::header::HeaderName::from_static(name),
                    value.parse().expect("a header"),
                )
            })
            .collect();
        Request::parse(&method, &uri.parse().expect("a URI"), &headers)
    }

    #[test]
    fn url_parameters_find_their_place() {
        let uri = "/?query=SELECT+%7Ba%3AString%7D&param_a=x%26y&max_threads=2&database=d&query_id=q&session_id=s&compress=1&role=";
        let request = parse(Method::POST, uri, &[("accept-encoding", "gzip")]).expect("a request");
        assert_eq!(request.query, "SELECT {a:String}");
        assert_eq!(request.params, [("a".to_owned(), "x&y".to_owned())]);
        assert_eq!(
            request.settings,
            [("max_threads".to_owned(), "2".to_owned())]
        );
        assert_eq!(request.answer_encoding, Some(Encoding::Blocks));
        assert_eq!(
            request
                .session
                .map(|session| (session.id, session.timeout_s)),
            Some(("s".to_owned(), 60))
        );
        assert!(!request.is_readonly);
    }

    #[test]
    fn only_default_without_a_password_comes_in() {
        let code = |uri: &str, headers: &[(&'static str, &str)]| {
            parse(Method::GET, uri, headers).err().map(|e| e.code)
        };
        assert_eq!(
            code(
                "/?user=default&password=",
                &[("authorization", "Basic ZGVmYXVsdDo=")]
            ),
            None
        );
        assert_eq!(
            code(
                "/",
                &[("x-clickhouse-user", "default"), ("x-clickhouse-key", "")]
            ),
            None
        );
        for (uri, headers) in [
            ("/?user=root", vec![]),
            ("/?password=x", vec![]),
            ("/", vec![("x-clickhouse-key", "x")]),
            ("/", vec![("authorization", "Basic ZGVmYXVsdDp4")]),
            ("/", vec![("authorization", "Basic ZGVmYXVsdA==")]),
            ("/", vec![("authorization", "Bearer x")]),
        ] {
            assert_eq!(
                code(uri, &headers),
                Some(code::AUTHENTICATION_FAILED),
                "{uri} {headers:?}"
            );
        }
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        let code = |uri: &str| parse(Method::GET, uri, &[]).err().map(|e| e.code);
        assert_eq!(code("/?a%3D1,b=2"), Some(code::UNKNOWN_SETTING));
        assert_eq!(code("/?query=%zz"), Some(code::BAD_ARGUMENTS));
        assert_eq!(
            code("/?session_id=s&session_timeout=4000"),
            Some(code::INVALID_SESSION_TIMEOUT)
        );
        assert_eq!(code("/?role=admin"), Some(code::UNKNOWN_ROLE));
    }
}

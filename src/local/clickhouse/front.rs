//! The face up to where the engine would get a request, for those who try it with arbitrary bytes: no engine is needed, and
//! nothing is executed.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Uri};

use super::exception::Exception;
use super::plan::Plan;
use super::request::Request;
use super::spool::{Spool, SpoolFolder};
use super::statement::Statement;

/// Reads a whole request: URL, headers, body. Whether a plan came of it, or else ClickHouse's code for what is wrong;
/// none where HTTP itself would have refused the URL. A body that would be kept on disk is refused.
pub fn plan_request<'a>(
    url: &[u8],
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    body: &[u8],
) -> Option<Result<(), u32>> {
    let uri = Uri::try_from(url).ok()?;
    let headers: HeaderMap = headers
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name).ok()?;
            Some((name, HeaderValue::from_bytes(value).ok()?))
        })
        .collect();
    let plan = || {
        let request = Request::parse(&Method::POST, &uri, &headers)?;
        let body = Spool::Memory(body.to_vec().into());
        let plan = Plan::new(request, body, &SpoolFolder::nowhere())?;
        let _ = (plan.is_read(), plan.is_insert(), plan.table("default"));
        Ok(())
    };
    Some(plan().map_err(|error: Exception| error.code))
}

/// Reads a statement of SQL. True where it would be executed.
pub fn read_statement(sql: &[u8]) -> bool {
    Statement::parse(sql).is_ok_and(|statement| {
        let _ = statement.target();
        true
    })
}

/// Reads what the engine reported; ClickHouse's code of it, and the status that is answered.
pub fn read_exception(text: &str) -> (u32, u16) {
    let exception = Exception::from_engine(text);
    (exception.code, exception.status().as_u16())
}

//! Answers as HTTP carries them: status and headers, packing, blocks that follow one another, and an exception behind
//! rows that are sent already. It refuses nothing: what it is given is what the client gets.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::compression::{Encoder, Encoding};
use super::engine::Counts;
use super::exception::{Exception, code};
use super::outbox::Reply;

/// Separates an exception from the rows before it. A client finds it by the header `X-ClickHouse-Exception-Tag`.
const TAG_LENGTH: usize = 16;

pub fn plain(status: StatusCode, text: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(text.as_bytes().to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=UTF-8"),
    );
    response
}

pub fn failed(error: &Exception) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(format!("{}\n", error.text).into_bytes()));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    headers.insert("x-clickhouse-exception-code", HeaderValue::from(error.code));
    response
}

/// The answer with its headers, packed as the client asked.
pub fn encoded(
    reply: Reply,
    encoding: Option<Encoding>,
    query_id: &str,
) -> Result<Response<AnswerBody>, Exception> {
    let pack_error = |error: std::io::Error| {
        Exception::new(
            code::STD_EXCEPTION,
            format!("the answer cannot be packed: {error}"),
        )
    };
    // An answer without a byte has nothing to pack, and clients expect it bare.
    let encoding = encoding.filter(|_| !(reply.head.is_empty() && reply.rest.is_none()));
    let mut encoder = Encoder::new(encoding).map_err(pack_error)?;
    let mut first = encoder.push(&reply.head).map_err(pack_error)?;
    let tag = exception_tag(query_id);
    let body = match reply.rest {
        None => {
            first.extend(encoder.finish().map_err(pack_error)?);
            AnswerBody::whole(first)
        }
        Some(rest) => AnswerBody {
            first: Some(first.into()),
            rest: Some((rest, encoder)),
            tag: tag.clone(),
        },
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-clickhouse-summary", &summary(&reply.counts));
    set("x-clickhouse-exception-tag", &tag);
    if let Some(format) = &reply.format {
        set("x-clickhouse-format", format);
        set("content-type", content_type(format));
    }
    if let Some(name) = encoding.and_then(Encoding::name) {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    Ok(response)
}

/// Unlikely in any row: the clock's microseconds and the query's id, mixed.
fn exception_tag(query_id: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let mut number = RandomState::new().hash_one((crate::clock::now_us(), query_id));
    let mut tag = String::with_capacity(TAG_LENGTH);
    for _ in 0..TAG_LENGTH {
        tag.push(char::from(b'a' + (number % 26) as u8));
        number = number.rotate_right(7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    tag
}

fn summary(counts: &Counts) -> String {
    format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
         \"result_rows\":\"{}\",\"result_bytes\":\"{}\"}}",
        counts.read_rows,
        counts.read_bytes,
        counts.written_rows,
        counts.written_bytes,
        counts.result_rows,
        counts.result_bytes
    )
}

fn content_type(format: &str) -> &'static str {
    match format {
        "JSON"
        | "JSONCompact"
        | "JSONStrings"
        | "JSONCompactStrings"
        | "JSONColumns"
        | "JSONColumnsWithMetadata"
        | "JSONCompactColumns"
        | "JSONObjectEachRow" => "application/json; charset=UTF-8",
        _ if format.starts_with("JSON") || format == "NDJSON" => {
            "application/x-ndjson; charset=UTF-8"
        }
        _ if format.starts_with("TabSeparated") || format.starts_with("TSV") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        _ if format.starts_with("CSV") => "text/csv; charset=UTF-8; header=absent",
        "Native" | "Parquet" | "ORC" | "Arrow" | "ArrowStream" | "Avro" | "MsgPack" => {
            "application/octet-stream"
        }
        _ if format.starts_with("RowBinary") => "application/octet-stream",
        "XML" => "application/xml; charset=UTF-8",
        _ => "text/plain; charset=UTF-8",
    }
}

/// An answer: whole, or its beginning and blocks that follow.
pub struct AnswerBody {
    first: Option<Bytes>,
    rest: Option<(mpsc::Receiver<Result<Bytes, Exception>>, Encoder)>,
    tag: String,
}

impl AnswerBody {
    fn whole(bytes: Vec<u8>) -> Self {
        Self {
            first: Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()),
            rest: None,
            tag: String::new(),
        }
    }

    /// The exception as ClickHouse writes it behind rows that are sent already.
    fn exception(&self, error: &Exception) -> Vec<u8> {
        let (tag, message) = (&self.tag, format!("{}\n", error.text));
        let length = message.len();
        format!("\r\n__exception__\r\n{tag}\r\n{message}{length} {tag}\r\n__exception__\r\n")
            .into_bytes()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(first) = self.first.take()
                && !first.is_empty()
            {
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            let Some((rest, _)) = &mut self.rest else {
                return Poll::Ready(None);
            };
            let next = ready!(rest.poll_recv(context));
            let (rest, mut encoder) = self.rest.take().expect("looked at just now");
            let packed = match next {
                Some(Ok(block)) => {
                    let packed = encoder.push(&block)?;
                    self.rest = Some((rest, encoder));
                    packed
                }
                Some(Err(error)) => {
                    let mut packed = encoder.push(&self.exception(&error))?;
                    packed.extend(encoder.finish()?);
                    packed
                }
                None => encoder.finish()?,
            };
            self.first = Some(packed.into());
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match (&self.first, &self.rest) {
            (first, None) => hyper::body::SizeHint::with_exact(
                first.as_ref().map_or(0, |first| first.len() as u64),
            ),
            _ => hyper::body::SizeHint::default(),
        }
    }
}

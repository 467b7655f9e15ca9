//! `/livez`, `/readyz` and `/metrics` of a role that runs on. What they say is the role's [`Probed`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// After a connection that could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a role says of itself.
pub trait Probed: Send + Sync + 'static {
    /// A line a reason; empty when it is ready.
    fn why_not_ready(&self) -> Vec<String>;
    /// In OpenMetrics' text format.
    fn metrics(&self) -> String;
}

/// Serves until it is aborted.
pub async fn serve<P: Probed>(listener: TcpListener, status: Arc<P>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // out of file descriptors, most likely: others will close theirs
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let status = status.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &*status);
                async move { Ok::<_, Infallible>(answer) }
            });
            // a client that breaks off is no concern of ours
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer<B>(request: &Request<B>, status: &impl Probed) -> Response<Full<Bytes>> {
    let (code, kind, text) = match request.uri().path() {
        "/livez" => (StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => match status.why_not_ready() {
            reasons if reasons.is_empty() => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            reasons => (
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                reasons.join("\n") + "\n",
            ),
        },
        "/metrics" => (StatusCode::OK, OPENMETRICS, status.metrics()),
        _ => (
            StatusCode::NOT_FOUND,
            TEXT,
            "here are /livez, /readyz and /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

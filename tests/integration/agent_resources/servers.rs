//! A server as the agent's child, and its readiness asked over real connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use modelmeter::agent::child::{self, ChildArgs, Restart, Wrapped};
use modelmeter::agent::condition::Condition;
use modelmeter::agent::readiness::{self, Check, Outcome, ReadinessArgs};
use modelmeter::core::event::ReplicaState;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::process::signal;
use crate::support::wait_until;

const SOON: Duration = Duration::from_secs(60);

async fn shell(script: &str, restart: Restart) -> Wrapped {
    let args = ChildArgs {
        restart,
        command: ["sh", "-c", script].map(Into::into).to_vec(),
    };
    child::spawn(&args, CancellationToken::new())
        .await
        .expect("a shell starts")
}

async fn code(wrapped: Wrapped) -> u8 {
    let ended = timeout(SOON, wrapped.ended).await.expect("it ends in time");
    ended.expect("it is not aborted").expect("it is waited for")
}

#[tokio::test]
async fn the_servers_code_is_handed_back() {
    assert_eq!(code(shell("exit 3", Restart::Never).await).await, 3);
    assert_eq!(code(shell("exit 0", Restart::OnFailure).await).await, 0);
    let killed = shell("kill -9 $$", Restart::Never).await;
    assert_eq!(code(killed).await, 137);
    let args = ChildArgs {
        restart: Restart::Never,
        command: vec!["/no/such/program".into()],
    };
    let spawned = child::spawn(&args, CancellationToken::new()).await;
    assert!(spawned.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_of_the_agent_reaches_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    // SIGWINCH does nothing to the other tests of this process.
    let script = format!(
        "trap 'exit 7' WINCH; : > {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let wrapped = shell(&script, Restart::Never).await;
    wait_until("the trap is set", SOON, || ready.exists());
    signal(std::process::id(), libc::SIGWINCH);
    assert_eq!(code(wrapped).await, 7);
}

#[tokio::test]
async fn a_server_that_failed_is_started_again_where_that_was_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let ran = folder.path().join("ran");
    let script = format!("test -e {0} && exit 0; : > {0}; exit 1", ran.display());
    let wrapped = shell(&script, Restart::OnFailure).await;
    let status = wrapped.status.clone();
    assert_eq!(code(wrapped).await, 0);
    assert_eq!(status.borrow().restarts, 1);
    assert_eq!(status.borrow().pid, None);
}

async fn until(condition: &mut watch::Receiver<Condition>, state: ReplicaState) -> Condition {
    let reached = condition.wait_for(|now| now.state == state);
    *timeout(SOON, reached)
        .await
        .unwrap_or_else(|_| panic!("{state:?} in time"))
        .expect("it is watched")
}

fn args(check: Option<Check>) -> ReadinessArgs {
    let few = std::num::NonZeroU32::MIN;
    ReadinessArgs {
        check,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        successes: few,
        failures: few,
    }
}

#[tokio::test]
async fn a_replica_goes_through_its_states_with_its_child() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let ran = folder.path().join("ran");
    // The first of them fails when it is told to, the second stays.
    let script = format!(
        "test -e {0} && exec sleep 600; : > {0}; while test -e {0}; do sleep 0.05; done; : > {0}; exit 1",
        ran.display()
    );
    let wrapped = shell(&script, Restart::OnFailure).await;
    let stop = CancellationToken::new();
    let mut condition = readiness::watch(
        &args(None),
        address,
        Some(wrapped.status.clone()),
        stop.clone(),
    );
    let first = until(&mut condition, ReplicaState::Active).await;
    assert_eq!(first.restarts, 0);
    assert!(first.load_us.is_some());
    wait_until("it ran", SOON, || ran.exists());
    std::fs::remove_file(&ran).expect("it is told to fail");
    until(&mut condition, ReplicaState::Waiting).await;
    let second = until(&mut condition, ReplicaState::Active).await;
    assert_eq!(second.restarts, 1);
    drop(listener);
    until(&mut condition, ReplicaState::Loading).await;
    stop.cancel();
    until(&mut condition, ReplicaState::Stopping).await;
    wrapped.ended.abort();
}

/// What a server answers just now: an HTTP status of 200 or 503, or a gRPC health status.
async fn serve(answer: Arc<AtomicU8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer.load(Ordering::Relaxed);
                async move { Ok::<_, Infallible>(respond(request, answer).await) }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn respond(request: Request<hyper::body::Incoming>, answer: u8) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path != "/grpc.health.v1.Health/Check" {
        let ready = answer == 1 && path == "/ready";
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let mut response = Response::new(Full::new(Bytes::from("words")).boxed());
        *response.status_mut() = status;
        return response;
    }
    let question = request.into_body().collect().await.expect("a question");
    let is_known = *question.to_bytes() == *b"\0\0\0\0\x03\x0a\x01m";
    let mut trailers = HeaderMap::new();
    // grpc-status 5: not found
    trailers.insert(
        "grpc-status",
        if is_known { "0" } else { "5" }.parse().expect("a value"),
    );
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, answer]);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok);
    Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(
        frames,
    ))))
}

#[tokio::test]
async fn http_and_grpc_servers_say_whether_they_are_ready() {
    let answer = Arc::new(AtomicU8::new(1));
    let address = serve(Arc::clone(&answer)).await;
    let check = |text: String| text.parse::<Check>().expect("a check");
    let http = check(format!("http://{address}/ready"));
    let grpc = check(format!("grpc://{address}/m"));
    let other = check(format!("grpc://{address}/other"));
    for check in [&http, &grpc] {
        assert_eq!(check.ask(SOON).await, Outcome::Ready, "{check:?}");
    }
    assert_eq!(other.ask(SOON).await, Outcome::NotReady, "no such service");
    // gRPC's NOT_SERVING, HTTP's 503
    answer.store(2, Ordering::Relaxed);
    for check in [&http, &grpc] {
        assert_eq!(check.ask(SOON).await, Outcome::NotReady, "{check:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_not_ready_and_one_that_is_gone_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let soon = Duration::from_millis(50);
    for scheme in ["http", "grpc"] {
        let check: Check = format!("{scheme}://{address}").parse().expect("a check");
        assert_eq!(check.ask(soon).await, Outcome::NotReady, "{check:?}");
    }
    let tcp: Check = format!("tcp://{address}").parse().expect("a check");
    assert_eq!(tcp.ask(SOON).await, Outcome::Ready);
    drop(listener);
    assert_eq!(tcp.ask(SOON).await, Outcome::Refused);
}

//! Supervision of small stand-in children; the real parts are in the integration tests.

use super::*;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Far more than a shell takes to start or to die, on the busiest machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A page that always answers 200: in these tests a child answers as soon as it runs.
async fn answering_page() -> Answer {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    });
    Answer::Http { port, path: "/" }
}

fn host(folder: &Path) -> Arc<Host> {
    Arc::new(Host {
        program: "/bin/sh".into(),
        spawner: Spawner::start().expect("a thread"),
        lock: FolderLock::acquire(&folder.join("children.lock")).expect("free"),
        logs: folder.to_owned(),
    })
}

fn part(script: &str, answer: Answer) -> Part {
    Part {
        name: Name::Processor,
        arguments: vec!["-c".into(), script.into()],
        answer,
        stop_patience: Duration::from_millis(300),
    }
}

/// Stays until it is told to end.
const STAYS: &str = "echo started; exec tail -f /dev/null";

async fn until(watch: &mut watch::Receiver<States>, wanted: impl Fn(&State) -> bool) -> State {
    let met = timeout(
        DEADLINE,
        watch.wait_for(|states| wanted(states.of(Name::Processor))),
    );
    met.await
        .expect("in time")
        .expect("the supervisor lives")
        .of(Name::Processor)
        .clone()
}

async fn until_up(watch: &mut watch::Receiver<States>) -> u32 {
    match until(watch, |state| matches!(state, State::Up { .. })).await {
        State::Up { pid } => pid,
        other => unreachable!("waited for up, not {other:?}"),
    }
}

fn kill(pid: u32) {
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    // SAFETY: kill(2) reads no memory; the child is this test's own and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

#[tokio::test]
async fn a_killed_part_is_down_and_then_up_again_as_another_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let host = host(folder.path());
    let (states, mut watch) = watch::channel(States::default());
    let supervised = host.supervise(part(STAYS, answering_page().await), Arc::new(states));
    let first = until_up(&mut watch).await;
    kill(first);
    until(&mut watch, |state| *state == State::Down).await;
    let second = until_up(&mut watch).await;
    assert_ne!(first, second);
    supervised.stop().await;
    assert_eq!(*watch.borrow().of(Name::Processor), State::Down);
    assert!(!Path::new(&format!("/proc/{second}")).exists());
}

#[tokio::test]
async fn a_part_that_never_answers_is_given_up_with_its_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let host = host(folder.path());
    // Nothing listens at port 1.
    let silent = Answer::Http { port: 1, path: "/" };
    let (states, mut watch) = watch::channel(States::default());
    let _supervised = host.supervise(part("echo no such luck; exit 3", silent), Arc::new(states));
    let state = until(&mut watch, |state| matches!(state, State::GivenUp { .. })).await;
    assert_eq!(
        state,
        State::GivenUp {
            reason: "exit code 3".to_owned()
        }
    );
    let log = std::fs::read_to_string(folder.path().join("processor.log")).expect("a log");
    assert_eq!(log.matches("no such luck").count(), FIRST_STARTS as usize);
}

#[tokio::test]
async fn a_part_that_will_not_end_is_killed_and_its_lock_given_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let host = host(folder.path());
    let (states, mut watch) = watch::channel(States::default());
    let deaf = format!("trap '' TERM; {STAYS}");
    let supervised = host.supervise(part(&deaf, answering_page().await), Arc::new(states));
    until_up(&mut watch).await;
    timeout(DEADLINE, supervised.stop())
        .await
        .expect("killed in time");
    let lock = folder.path().join("children.lock");
    assert!(FolderLock::acquire(&lock).is_err(), "the host still has it");
    drop(host);
    FolderLock::acquire_within(&lock, DEADLINE)
        .await
        .expect("no child has it");
}

#[tokio::test]
async fn a_lock_that_was_handed_on_outlives_its_owner() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lock");
    let lock = FolderLock::acquire(&path).expect("free");
    let spawner = Spawner::start().expect("a thread");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", STAYS]).stdout(Stdio::null());
    let child = spawner
        .spawn(Launch::new(command).with_lock(&lock))
        .await
        .expect("a shell");
    drop(lock);
    assert!(FolderLock::acquire(&path).is_err(), "the child has it");
    child.stop(DEADLINE).await.expect("ended");
    FolderLock::acquire_within(&path, DEADLINE)
        .await
        .expect("nobody has it");
}

#[tokio::test]
async fn children_die_with_the_thread_that_started_them() {
    let spawner = Spawner::start().expect("a thread");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", STAYS]).stdout(Stdio::null());
    let mut child = spawner.spawn(Launch::new(command)).await.expect("a shell");
    drop(spawner);
    let ended = timeout(DEADLINE, child.wait())
        .await
        .expect("killed")
        .expect("waited for");
    assert_eq!(ending(ended), "signal 9");
}

#[tokio::test]
async fn a_command_that_fails_is_told_from_one_that_succeeds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let host = host(folder.path());
    let script = |text: &str| ["-c".into(), text.into()];
    host.run_once(&script("exit 0"), "migrate")
        .await
        .expect("it succeeds");
    let failed = host.run_once(&script("exit 4"), "migrate").await;
    assert!(matches!(failed, Err(CommandError::Failed { ending, .. }) if ending == "exit code 4"));
}

//! A real model server, scikit-learn on MLServer, that is killed while it works on a request: its client gets the agent's 502, and
//! SQL counts it as such, between an answer of the server and one of its successor. Left out where `make model-servers` was not run.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Pipeline, number};
use crate::agent_proxy::support::{connect, read_answer};
use crate::support::ports::Port;
use crate::support::process::{Role, signal};
use crate::support::space::CATCH_UP;
use crate::support::{root, wait_for};

const DEPLOYMENT: &str = "real-server";

/// Python's start on a busy machine, twice: requests are held until the server is there.
const START: Duration = Duration::from_secs(180);
const HOLD: &str = "180s";

/// Rows in one request: some seconds of work for the server, most of it to read them.
const MANY_ROWS: usize = 2_000_000;
/// Hundredths of a second of CPU after which it surely works on them: to say that it is ready takes it less than one.
const AT_WORK_TICKS: u64 = 30;

struct Servers {
    agent: Role,
    requests: SocketAddr,
    _ports: [Port; 3],
}

/// None where the real servers are not installed.
fn begin(pipeline: &Pipeline) -> Option<Servers> {
    let servers = root().join("deploy/local/parts/servers");
    if !servers.join(".pin").exists() {
        eprintln!("skipped: no model server is installed (make model-servers)");
        return None;
    }
    let folder = pipeline.folder().join("mlserver");
    fs::create_dir(&folder).expect("a folder");
    let ports = [(); 3].map(|()| Port::take());
    let url = format!("http://{}", ports[0].address());
    let ready = format!("{url}/v2/models/iris/ready");
    let of_proxy = ["--listen", "127.0.0.1:0", "--upstream", &url];
    let of_server = ["--ready-check", &ready, "--hold-until-ready", HOLD];
    let of_child = ["--gpus", "none", "--restart", "on-failure", "--"];
    // `env` becomes the server itself, which writes into the folder that it runs in
    let mut command = vec![
        "env".to_owned(),
        format!("--chdir={}", folder.display()),
        "MLSERVER_HOST=127.0.0.1".to_owned(),
        "MLSERVER_PARALLEL_WORKERS=0".to_owned(),
    ];
    let names = ["HTTP", "GRPC", "METRICS"].iter().zip(&ports);
    command.extend(names.map(|(name, port)| format!("MLSERVER_{name}_PORT={}", port.number)));
    // by the interpreter: the program's first line names one where it was installed
    let programs = ["venv/bin/python", "venv/bin/mlserver"].map(|program| servers.join(program));
    command.extend(programs.map(|program| program.display().to_string()));
    command.push("start".to_owned());
    command.push(servers.join("models").display().to_string());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let flags = [&of_proxy[..], &of_server, &of_child, &command].concat();
    let mut agent = pipeline.agent(DEPLOYMENT, &flags);
    let requests = agent.announced("agent: requests on http://");
    Some(Servers {
        agent,
        requests: requests.parse().expect("an address"),
        _ports: ports,
    })
}

/// Asks for so many flowers, in the words of the V2 protocol; gives the status.
fn ask(address: SocketAddr, rows: usize) -> JoinHandle<u16> {
    let data = vec!["5.1,3.5,1.4,0.2"; rows].join(",");
    let body = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{rows},4],"datatype":"FP32","data":[{data}]}}]}}"#
    );
    std::thread::spawn(move || {
        let mut stream = connect(address);
        stream.set_read_timeout(Some(START)).expect("a deadline");
        let head = format!(
            "POST /v2/models/iris/infer HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(&[head.as_bytes(), body.as_bytes()].concat())
            .expect("the agent takes it");
        read_answer(&mut stream).0
    })
}

/// The fields of `/proc/PID/stat` behind the name, of the process that the agent started.
fn server_of(agent: u32) -> Option<(u32, Vec<u64>)> {
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = stat.rsplit_once(") ")?.1.split(' ').skip(1);
        let fields: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
        (fields.first() == Some(&u64::from(agent))).then_some((pid, fields))
    })
}

/// CPU time in hundredths of a second.
fn ticks(fields: &[u64]) -> u64 {
    fields[10] + fields[11]
}

impl Servers {
    fn server(&self) -> Result<(u32, Vec<u64>), String> {
        server_of(self.agent.pid()).ok_or_else(|| self.agent.tail())
    }
}

pub fn check(pipeline: &Pipeline) {
    let Some(servers) = begin(pipeline) else {
        return;
    };
    assert_eq!(ask(servers.requests, 2).join().expect("an answer"), 200);
    let (pid, idle) = servers.server().expect("it answered");
    let killed = ask(servers.requests, MANY_ROWS);
    wait_for("it works on the request", CATCH_UP, || {
        let (same, now) = servers.server()?;
        assert_eq!(same, pid, "{}", servers.agent.tail());
        assert!(!killed.is_finished(), "it was answered before the kill");
        let used = ticks(&now) - ticks(&idle);
        (used >= AT_WORK_TICKS)
            .then_some(())
            .ok_or_else(|| used.to_string())
    });
    signal(pid, libc::SIGKILL);
    assert_eq!(killed.join().expect("an answer"), 502);
    // before the agent has seen the end, a request would find nobody there, which is a 502 as well
    wait_for("the server is started again", CATCH_UP, || {
        let (successor, _) = servers.server()?;
        (successor != pid)
            .then_some(())
            .ok_or_else(|| "the old one".to_owned())
    });
    // held until the successor is ready
    assert_eq!(ask(servers.requests, 2).join().expect("an answer"), 200);
    let wanted = [3, 2, 0, 1, 0, 0];
    wait_for("SQL says what the clients saw", CATCH_UP, || {
        let mut seen = [0.0; 6];
        for row in pipeline.rows("inference_volume", DEPLOYMENT)? {
            let of = |column| number(&row, column).unwrap_or(f64::NAN);
            let classes = ["rps_2xx", "rps_4xx", "rps_5xx", "rps_other"].map(of);
            let counts = classes.map(|rps| rps * of("seconds"));
            let [ok, wrong, failed, other] = counts;
            let all = [of("requests"), ok, wrong, failed, other, of("client_gone")];
            seen.iter_mut().zip(all).for_each(|(sum, n)| *sum += n);
        }
        let is_right = seen
            .iter()
            .zip(wanted)
            .all(|(&n, w)| (n - f64::from(w)).abs() < 0.01);
        is_right.then_some(()).ok_or_else(|| format!("{seen:?}"))
    });
    let ends = pipeline.space.sql.rows(&format!(
        "SELECT toFloat64(sum(completed)) AS whole, toFloat64(sum(aborted)) AS aborted FROM requests_10s WHERE deployment_id = '{DEPLOYMENT}'"
    ));
    let ends = ["whole", "aborted"].map(|column| number(&ends[0], column));
    assert_eq!(ends, [Some(2.0), Some(1.0)]);
}

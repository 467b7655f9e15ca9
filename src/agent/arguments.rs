//! The agent's flags, and what they mean once they are checked. Everything that is wrong is said at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::child::ChildArgs;
use super::identity::{Identity, IdentityArgs, IdentityError};
use super::out::outbox::{MAX_MEMORY_BYTES, Room};
use super::proxy::ProxyArgs;
use super::readiness::ReadinessArgs;
use super::resources::ResourceArgs;
use crate::bus::avro::limits::MAX_INTERVAL_US;
use crate::config::{KafkaArgs, KafkaOption, TopicArgs, parse_duration};

/// Batches of an hour and a half at the most that one replica says, or days of a quiet one.
const DEFAULT_SPOOL_BYTES: u64 = 512 << 20;

/// Below this the spool cannot hold what is under way and something newer.
const MIN_SPOOL_BYTES: u64 = 64 << 10;

/// What Kafka's side accepts: requests that ended more than 48 h ago are refused there.
const MAX_SPOOL_AGE: Duration = Duration::from_secs(48 * 3600);

#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Bootstrap servers, HOST:PORT[,HOST:PORT…].
    #[arg(long = "kafka", env = "MODELMETER_KAFKA", value_name = "HOST:PORT")]
    pub bootstrap: Option<String>,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// A librdkafka option, passed through; may be given more than once.
    #[arg(short = 'X', long = "kafka-option", value_name = "KEY=VALUE")]
    pub kafka_options: Vec<KafkaOption>,
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// Where the server may post events by itself: a loopback address, or unix:PATH.
    #[arg(
        long,
        env = "MODELMETER_EVENTS_LISTEN",
        value_name = "ADDRESS|unix:PATH"
    )]
    pub events_listen: Option<EventsAddress>,
    /// Where /livez, /readyz and /metrics are; port 0 is any free one.
    #[arg(long, default_value = "127.0.0.1:9465", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// The folder in which batches wait for Kafka; agents on one machine may share it.
    #[arg(
        long,
        env = "MODELMETER_SPOOL",
        default_value = "modelmeter-spool",
        value_name = "DIR"
    )]
    pub spool: PathBuf,
    /// What the spool may take on the disk; past it the oldest batches go, counted.
    #[arg(long, default_value_t = DEFAULT_SPOOL_BYTES, value_name = "BYTES")]
    pub spool_bytes: u64,
    /// How long a batch may wait for Kafka.
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
    pub spool_age: Duration,
    /// How long an event may wait for its batch: what a crash loses at most.
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    pub batch_interval: Duration,
    /// How often a sample of the replica is sent.
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    pub sample_interval: Duration,
    /// How long SIGTERM may take to deliver what is left; the rest stays in the spool for the next start.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub shutdown_deadline: Duration,
    #[command(flatten)]
    pub readiness: ReadinessArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    #[command(flatten)]
    pub child: ChildArgs,
    /// Only say whether the configuration is right and Kafka can be reached.
    #[arg(id = "check_only", long = "check")]
    pub check: bool,
}

/// Where events are posted: never where a network could reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsAddress {
    Loopback(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for EventsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err("events are taken on a loopback address or unix:PATH alone".to_owned()),
            Err(_) => Err(format!("{text:?} is neither IP:PORT nor unix:PATH")),
        }
    }
}

impl fmt::Display for EventsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("--kafka (or MODELMETER_KAFKA) is required")]
    NoKafka,
    #[error(
        "--listen and --upstream, or --events-listen, are required: without them nothing is measured"
    )]
    NothingToDo,
    #[error("--spool-bytes: at least {MIN_SPOOL_BYTES}, not {0}")]
    SpoolBytes(u64),
    #[error("--spool-age: at most 48h, beyond which requests are not accepted any more")]
    SpoolAge,
    #[error("--sample-interval: at most 5m, which is what one sample may speak for")]
    SampleInterval,
}

/// All that is wrong, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgumentErrors(pub Vec<ArgumentError>);

impl fmt::Display for ArgumentErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "{}", lines.join("\nmodelmeter: "))
    }
}

impl std::error::Error for ArgumentErrors {}

/// Checked.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub identity: Identity,
    pub kafka: KafkaArgs,
    pub room: Room,
}

impl AgentArgs {
    /// # Errors
    /// Everything that is wrong.
    pub fn check(&self, random: [u8; 16]) -> Result<AgentConfig, ArgumentErrors> {
        let mut errors = Vec::new();
        let identity = self.identity.check(random).map_err(|wrong| {
            errors.extend(wrong.into_iter().map(ArgumentError::Identity));
        });
        if self.bootstrap.is_none() {
            errors.push(ArgumentError::NoKafka);
        }
        if self.events_listen.is_none() && self.proxy.listen.is_none() {
            errors.push(ArgumentError::NothingToDo);
        }
        if self.spool_bytes < MIN_SPOOL_BYTES {
            errors.push(ArgumentError::SpoolBytes(self.spool_bytes));
        }
        if self.spool_age > MAX_SPOOL_AGE {
            errors.push(ArgumentError::SpoolAge);
        }
        if self.sample_interval.as_micros() > u128::from(MAX_INTERVAL_US) {
            errors.push(ArgumentError::SampleInterval);
        }
        match (identity, &self.bootstrap) {
            (Ok(identity), Some(bootstrap)) if errors.is_empty() => Ok(AgentConfig {
                identity,
                kafka: KafkaArgs {
                    bootstrap: bootstrap.clone(),
                    topics: self.topics.clone(),
                    options: self.kafka_options.clone(),
                },
                room: Room {
                    spool_bytes: self.spool_bytes,
                    memory_bytes: MAX_MEMORY_BYTES,
                    age_us: i64::try_from(self.spool_age.as_micros()).unwrap_or(i64::MAX),
                },
            }),
            _ => Err(ArgumentErrors(errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_on_this_machine_alone() {
        assert!("127.0.0.1:80".parse::<EventsAddress>().is_ok());
        assert!("[::1]:80".parse::<EventsAddress>().is_ok());
        assert!("unix:/run/x".parse::<EventsAddress>().is_ok());
        for bad in ["0.0.0.0:80", "10.0.0.1:80", "unix:", "localhost", ""] {
            assert!(bad.parse::<EventsAddress>().is_err(), "{bad}");
        }
    }
}

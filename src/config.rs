//! What several roles take from the command line or the environment, parsed once into typed values.
//! Each role keeps its own flags beside its `run`; nothing else in the crate reads the environment.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Where Kafka is and which topics carry what. `librdkafka` options pass through.
// An `Option<KafkaArgs>` is there when its group is, and clap leaves the group of a struct that flattens
// another one empty: so its member is named.
#[derive(Debug, Clone, clap::Args)]
#[group(args = ["bootstrap"])]
pub struct KafkaArgs {
    /// Bootstrap servers, HOST:PORT[,HOST:PORT…].
    #[arg(long = "kafka", env = "MODELMETER_KAFKA", value_name = "HOST:PORT")]
    pub bootstrap: String,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// A librdkafka option, passed through; may be given more than once.
    #[arg(short = 'X', long = "kafka-option", value_name = "KEY=VALUE")]
    pub options: Vec<KafkaOption>,
}

/// The three topics. Tests and benchmarks use their own; users hardly ever do.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct TopicArgs {
    #[arg(
        long = "requests-topic",
        default_value = "modelmeter.requests",
        value_name = "TOPIC"
    )]
    pub requests: String,
    #[arg(
        long = "replicas-topic",
        default_value = "modelmeter.replicas",
        value_name = "TOPIC"
    )]
    pub replicas: String,
    #[arg(
        long = "dead-letters-topic",
        default_value = "modelmeter.dead-letters",
        value_name = "TOPIC"
    )]
    pub dead_letters: String,
}

/// One `key=value` for librdkafka.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaOption {
    pub key: String,
    pub value: String,
}

/// Options that exactness rests on, or that have a flag of their own.
const PINNED_OPTIONS: [&str; 10] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
];

impl FromStr for KafkaOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, _)) if PINNED_OPTIONS.contains(&key) => {
                Err(format!("{key} is set by modelmeter and cannot be changed"))
            }
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(format!("{text:?} is not KEY=VALUE")),
        }
    }
}

/// Values may be secrets (`sasl.password`), so only the key is ever printed.
impl fmt::Debug for KafkaOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.key)
    }
}

/// Where ClickHouse is.
#[derive(Clone, clap::Args)]
pub struct StoreArgs {
    /// ClickHouse's HTTP interface; `?database=` may name the database.
    #[arg(long = "clickhouse", env = "MODELMETER_CLICKHOUSE", value_name = "URL")]
    pub url: String,
    /// The database; without it `?database=` of the URL, else `default`.
    #[arg(long, env = "MODELMETER_DATABASE")]
    pub database: Option<String>,
    #[arg(
        long = "clickhouse-user",
        env = "MODELMETER_CLICKHOUSE_USER",
        default_value = "default",
        value_name = "USER"
    )]
    pub user: String,
    #[arg(
        long = "clickhouse-password",
        env = "MODELMETER_CLICKHOUSE_PASSWORD",
        default_value = "",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub password: String,
}

impl fmt::Debug for StoreArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreArgs")
            // a mistaken URL may hold a password; a right one is an address
            .field("address", &self.address().map(|address| address.origin))
            .field("database", &self.database)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// ClickHouse's address with the database resolved: what every client of it is built from.
#[derive(Clone)]
pub struct StoreAddress {
    /// `http://HOST:PORT`, nothing behind it.
    pub origin: String,
    /// `HOST:PORT`.
    pub authority: String,
    pub database: String,
    pub user: String,
    pub password: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    #[error("--clickhouse: the URL must begin with http:// (TLS is not supported yet)")]
    Scheme,
    #[error("--clickhouse: no host in the URL")]
    NoHost,
    #[error(
        "--clickhouse: user and password do not belong into the URL; give --clickhouse-user and MODELMETER_CLICKHOUSE_PASSWORD"
    )]
    Credentials,
    #[error("--clickhouse: of a query the URL may have database=NAME alone, not {0:?}")]
    Query(String),
    #[error(
        "database {0:?}: a name is letters, digits and underscores, not beginning with a digit"
    )]
    Database(String),
}

impl StoreArgs {
    /// Resolves URL, flag and default into one address.
    ///
    /// # Errors
    /// When the URL is not `http://HOST[:PORT]…` or the database is no plain identifier.
    pub fn address(&self) -> Result<StoreAddress, StoreAddressError> {
        let rest = self
            .url
            .strip_prefix("http://")
            .ok_or(StoreAddressError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return Err(StoreAddressError::Credentials);
        }
        if host.is_empty() {
            return Err(StoreAddressError::NoHost);
        }
        let authority = match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            _ => format!("{host}:8123"),
        };
        let mut from_url = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // only the key is told: a value may be a password
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "database" => from_url = Some(value),
                other => return Err(StoreAddressError::Query(other.to_owned())),
            }
        }
        let database = self.database.as_deref().or(from_url).unwrap_or("default");
        if !is_identifier(database) {
            return Err(StoreAddressError::Database(database.to_owned()));
        }
        Ok(StoreAddress {
            origin: format!("http://{authority}"),
            authority,
            database: database.to_owned(),
            user: self.user.clone(),
            password: self.password.clone(),
        })
    }
}

/// A database name stands in statements, so only plain identifiers are taken.
fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl StoreAddress {
    /// A client of the `clickhouse` crate for this address: all reads and migrations go through it.
    pub fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default()
            .with_url(&self.origin)
            .with_user(&self.user)
            .with_password(&self.password)
            .with_database(&self.database)
    }
}

/// A broker takes 249 characters for a member of a group, of which [`InstanceId::reading`] adds some.
const MAX_INSTANCE_ID: usize = 200;

/// The name of one process in its group, the same at each of its starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceId(String);

impl std::str::FromStr for InstanceId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=MAX_INSTANCE_ID).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?}: a name has 1 to {MAX_INSTANCE_ID} letters, digits, dots, underscores or hyphens"
            ))
        }
    }
}

impl InstanceId {
    /// The `group.instance.id` of a process that reads these topics, of so many partitions each. A group gives a member that
    /// is back what it had, without a look at what there is to read by now: whoever reads something else is another member.
    pub fn reading(&self, topics: &[(String, usize)]) -> String {
        let text: String = topics
            .iter()
            .map(|(topic, partitions)| format!("{topic}:{partitions}\n"))
            .collect();
        let fingerprint = cityhash_rs::cityhash_110_128(text.as_bytes());
        format!("{}.{:016x}", self.0, fingerprint >> 64)
    }
}

/// Parses `300ms`, `3s`, `2m` or `1h`.
///
/// # Errors
/// When the text is no number with one of these units, or not above zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let seconds = match &text[digits..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => {
            return Err(format!(
                "{text:?} is no duration such as 300ms, 3s, 2m or 1h"
            ));
        }
    };
    match text[..digits].parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e6 => {
            Some(Duration::from_secs_f64(number * seconds))
        }
        _ => None,
    }
    // what is less than a nanosecond is zero too
    .filter(|duration| !duration.is_zero())
    .ok_or_else(|| format!("{text:?}: a duration is above zero"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_rounds_to_zero_is_none() {
        assert!(parse_duration("0.0000001ms").is_err());
        assert_eq!(parse_duration("0.000001s"), Ok(Duration::from_micros(1)));
    }

    #[test]
    fn an_instance_has_a_name_that_a_broker_takes() {
        let longest = "a".repeat(MAX_INSTANCE_ID);
        let topics = |partitions| [("requests".to_owned(), partitions)];
        for name in ["rollup-0.a_B", ".", &longest] {
            let id: InstanceId = name.parse().expect("a name");
            let told = id.reading(&topics(12));
            assert!(told.starts_with(name) && told.len() <= 249, "{told}");
            assert_eq!(told, id.reading(&topics(12)));
            assert_ne!(told, id.reading(&topics(13)));
        }
        for wrong in ["", "a b", "a/b", "\u{e9}", &(longest + "a")] {
            assert!(wrong.parse::<InstanceId>().is_err(), "{wrong:?}");
        }
    }

    fn args(url: &str, database: Option<&str>) -> StoreArgs {
        StoreArgs {
            url: url.to_owned(),
            database: database.map(str::to_owned),
            user: "default".to_owned(),
            password: "secret".to_owned(),
        }
    }

    #[test]
    fn database_comes_from_flag_then_url_then_default() {
        let of = |url, database| args(url, database).address().map(|a| a.database);
        assert_eq!(of("http://h:1/?database=u", Some("f")).as_deref(), Ok("f"));
        assert_eq!(of("http://h:1/?database=u", None).as_deref(), Ok("u"));
        assert_eq!(of("http://h:1", None).as_deref(), Ok("default"));
        assert_eq!(
            of("http://h:1", Some("a b")),
            Err(StoreAddressError::Database("a b".to_owned()))
        );
    }

    #[test]
    fn address_is_checked() {
        let error = |url| args(url, None).address().err();
        assert_eq!(error("h:1"), Some(StoreAddressError::Scheme));
        assert_eq!(error("http:///x"), Some(StoreAddressError::NoHost));
        assert_eq!(error("http://u:p@h"), Some(StoreAddressError::Credentials));
        let query = Some(StoreAddressError::Query("password".to_owned()));
        assert_eq!(error("http://h/?password=p"), query);
        assert_eq!(
            args("http://h", None)
                .address()
                .map(|a| a.authority)
                .as_deref(),
            Ok("h:8123")
        );
    }

    #[test]
    fn options_that_exactness_rests_on_are_refused() {
        assert!("auto.offset.reset=latest".parse::<KafkaOption>().is_err());
        assert!("fetch.min.bytes=1".parse::<KafkaOption>().is_ok());
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["3", "s", "0s", "-1s", "", "1e9h", "é"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let option: KafkaOption = "sasl.password=hunter2".parse().expect("key=value");
        assert!(!format!("{option:?}").contains("hunter2"));
        assert!(!format!("{:?}", args("http://h", None)).contains("secret"));
        assert!(!format!("{:?}", args("http://u:hunter2@h", None)).contains("hunter2"));
    }
}

//! Who the agent speaks for: the deployment, the replica, and the facts that charts name them by. Owns what an id may
//! be; says everything that is wrong at once. It refuses to repair an id that was given.

use std::io;

use crate::bus::avro::limits::{MAX_ID_BYTES, MAX_TEXT_BYTES};
use crate::core::event::Kind;

/// Name and version, for "which producer must be upgraded".
pub const PRODUCER: &str = concat!("modelmeter-agent/", env!("CARGO_PKG_VERSION"));

/// Where Linux keeps the host's name, which in a pod is the pod's.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// Hexadecimal digits behind the host's name: 65,536 starts on one host before two are likely to be the same.
const SUFFIX_BYTES: usize = 4;

#[derive(Debug, Clone, clap::Args)]
pub struct IdentityArgs {
    /// The deployment that the model server belongs to: 1 to 128 bytes of [A-Za-z0-9._:-].
    #[arg(long, env = "MODELMETER_DEPLOYMENT_ID", value_name = "ID")]
    pub deployment_id: Option<String>,
    /// This replica, for instance the pod's name; without it the host's name and a random suffix.
    #[arg(long, env = "MODELMETER_REPLICA_ID", value_name = "ID")]
    pub replica_id: Option<String>,
    /// The model that is deployed.
    #[arg(
        long,
        env = "MODELMETER_MODEL_ID",
        default_value = "",
        hide_default_value = true
    )]
    pub model_id: String,
    /// The model's name, for people.
    #[arg(
        long,
        env = "MODELMETER_MODEL_NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub model_name: String,
    /// The deployment's name, for people.
    #[arg(
        long,
        env = "MODELMETER_DEPLOYMENT_NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub deployment_name: String,
    /// For instance production or staging; any text.
    #[arg(
        long,
        env = "MODELMETER_ENVIRONMENT",
        default_value = "",
        hide_default_value = true
    )]
    pub environment: String,
    /// production or development. A development replica counts as active while it loads.
    #[arg(long, env = "MODELMETER_KIND", default_value = "production")]
    pub kind: String,
    /// The machine, as its provider names it.
    #[arg(
        long,
        env = "MODELMETER_INSTANCE_TYPE",
        default_value = "",
        hide_default_value = true
    )]
    pub instance_type: String,
}

/// Checked: what every message of this boot says of its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub deployment_id: String,
    pub replica_id: String,
    /// New with every start, so that sequences may begin at 0 again.
    pub boot_id: [u8; 16],
    pub model_id: String,
    pub model_name: String,
    pub deployment_name: String,
    pub environment: String,
    pub kind: Kind,
    pub instance_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("--deployment-id (or MODELMETER_DEPLOYMENT_ID) is required")]
    NoDeployment,
    #[error("{flag}: an id is 1 to {MAX_ID_BYTES} bytes of [A-Za-z0-9._:-], not {found:?}")]
    Id { flag: &'static str, found: String },
    #[error("{flag}: {bytes} bytes, more than {MAX_TEXT_BYTES}")]
    TooLong { flag: &'static str, bytes: usize },
    #[error("--kind is production or development, not {0:?}")]
    Kind(String),
}

impl IdentityArgs {
    /// The identity, with `random` for what must differ at every start.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(&self, random: [u8; 16]) -> Result<Identity, Vec<IdentityError>> {
        let mut errors = Vec::new();
        let deployment_id = self.deployment_id.clone().unwrap_or_default();
        match &self.deployment_id {
            None => errors.push(IdentityError::NoDeployment),
            Some(id) => check_id("--deployment-id", id, &mut errors),
        }
        let replica_id = match &self.replica_id {
            None => default_replica_id(&host_name(), random),
            Some(id) => {
                check_id("--replica-id", id, &mut errors);
                id.clone()
            }
        };
        for (flag, text) in [
            ("--model-id", &self.model_id),
            ("--model-name", &self.model_name),
            ("--deployment-name", &self.deployment_name),
            ("--environment", &self.environment),
            ("--instance-type", &self.instance_type),
        ] {
            if text.len() > MAX_TEXT_BYTES {
                let bytes = text.len();
                errors.push(IdentityError::TooLong { flag, bytes });
            }
        }
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.symbol() == self.kind);
        let Some(kind) = kind else {
            errors.push(IdentityError::Kind(self.kind.clone()));
            return Err(errors);
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Identity {
            deployment_id,
            replica_id,
            boot_id: random,
            model_id: self.model_id.clone(),
            model_name: self.model_name.clone(),
            deployment_name: self.deployment_name.clone(),
            environment: self.environment.clone(),
            kind,
            instance_type: self.instance_type.clone(),
        })
    }
}

/// Sixteen random bytes, from the kernel.
///
/// # Errors
/// When the kernel has none.
pub fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut file = std::fs::File::open("/dev/urandom")?;
    io::Read::read_exact(&mut file, &mut bytes)?;
    Ok(bytes)
}

fn check_id(flag: &'static str, id: &str, errors: &mut Vec<IdentityError>) {
    let is_valid = (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(is_id_byte);
    if !is_valid {
        let found = id.chars().take(MAX_ID_BYTES).collect();
        errors.push(IdentityError::Id { flag, found });
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._:-".contains(&byte)
}

fn host_name() -> String {
    std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default()
}

/// The host's name as an id, cut to leave room for the suffix.
fn default_replica_id(host: &str, random: [u8; 16]) -> String {
    let longest = MAX_ID_BYTES - 1 - 2 * SUFFIX_BYTES;
    let mut id: String = host
        .trim()
        .bytes()
        .take(longest)
        .map(|byte| if is_id_byte(byte) { byte as char } else { '-' })
        .collect();
    if id.is_empty() {
        id.push_str("replica");
    }
    id.push('-');
    for byte in &random[..SUFFIX_BYTES] {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> IdentityArgs {
        IdentityArgs {
            deployment_id: Some("d".to_owned()),
            replica_id: None,
            model_id: String::new(),
            model_name: String::new(),
            deployment_name: String::new(),
            environment: String::new(),
            kind: "production".to_owned(),
            instance_type: String::new(),
        }
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let mut wrong = args();
        wrong.deployment_id = Some("a b".to_owned());
        wrong.replica_id = Some("r".repeat(MAX_ID_BYTES + 1));
        wrong.model_name = "n".repeat(MAX_TEXT_BYTES + 1);
        wrong.kind = "test".to_owned();
        let errors = wrong.check([0; 16]).expect_err("all wrong");
        let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 4, "{text:?}");
        for (line, flag) in
            text.iter()
                .zip(["--deployment-id", "--replica-id", "--model-name", "--kind"])
        {
            assert!(line.starts_with(flag), "{line}");
        }
        wrong = args();
        wrong.deployment_id = None;
        assert_eq!(wrong.check([0; 16]), Err(vec![IdentityError::NoDeployment]));
    }

    #[test]
    fn a_replica_without_a_name_takes_the_hosts() {
        assert_eq!(
            default_replica_id("web_1.x\n", [255; 16]),
            "web_1.x-ffffffff"
        );
        assert_eq!(default_replica_id("", [0; 16]), "replica-00000000");
        assert_eq!(default_replica_id("a b/é", [1; 16]), "a-b----01010101");
        let long = default_replica_id(&"h".repeat(300), [0; 16]);
        assert_eq!(long.len(), MAX_ID_BYTES);
    }
}

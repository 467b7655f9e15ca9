//! What the dropdowns are told of a deployment: what it says of itself, and when it was seen.

use std::sync::Arc;

use super::event::ReplicaSample;

/// What a deployment says of itself, for the dropdowns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    pub deployment_name: String,
    pub model_id: String,
    pub model_name: String,
    pub environment: String,
    /// `production`, `development`, or empty where only requests were seen.
    pub kind: &'static str,
    pub instance_type: String,
}

impl Facts {
    /// The sample says just this.
    pub fn is_of(&self, sample: &ReplicaSample<'_>) -> bool {
        self.deployment_name == sample.deployment_name
            && self.model_id == sample.model_id
            && self.model_name == sample.model_name
            && self.environment == sample.environment
            && self.kind == sample.kind.symbol()
            && self.instance_type == sample.instance_type
    }

    /// Bytes that they take, about.
    pub fn bytes(&self) -> usize {
        let texts = [
            &self.deployment_name,
            &self.model_id,
            &self.model_name,
            &self.environment,
            &self.instance_type,
        ];
        size_of::<Self>() + texts.iter().map(|text| text.capacity()).sum::<usize>()
    }

    /// What a sample says.
    pub fn of(sample: &ReplicaSample<'_>) -> Self {
        Self {
            deployment_name: sample.deployment_name.to_owned(),
            model_id: sample.model_id.to_owned(),
            model_name: sample.model_name.to_owned(),
            environment: sample.environment.to_owned(),
            kind: sample.kind.symbol(),
            instance_type: sample.instance_type.to_owned(),
        }
    }
}

/// First and last second in which something was seen of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub first: u32,
    pub last: u32,
}

/// A row of the `deployments` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRow {
    pub id: Arc<str>,
    pub facts: Facts,
    pub seen: Seen,
}

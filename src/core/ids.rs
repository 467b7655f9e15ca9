//! Ids from outside become small numbers, within limits: past them a number stands for `__other__`.
//!
//! One look-up of (deployment, replica) a message gives both numbers. The table is emptied with every full flush, so
//! that nothing grows by what was seen once and no rule of eviction is needed.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};

/// The id that takes what is past a limit. Totals stay exact; whose they were is lost.
pub const OTHER: &str = "__other__";

/// Deployments that one process keeps apart between two full flushes. Twice the largest installation that was
/// measured; at 2.5 KiB a window, three windows of each are 150 MiB.
pub const DEFAULT_MAX_DEPLOYMENTS: u32 = 20_000;

/// Replicas of one deployment that are kept apart between two full flushes.
pub const DEFAULT_MAX_REPLICAS: u32 = 2_000;

/// An id's entry, its text, its place in the table and in the levels, about.
const BYTES_PER_ID: usize = 256;

/// How many deployments and replicas are kept apart. The count of deployments is shared by all partitions of a process.
#[derive(Debug, Clone)]
pub struct IdLimits {
    deployments_in_use: Arc<AtomicU32>,
    max_deployments: u32,
    max_replicas: u32,
}

impl IdLimits {
    pub fn new(max_deployments: u32, max_replicas: u32) -> Self {
        Self {
            deployments_in_use: Arc::default(),
            max_deployments,
            max_replicas,
        }
    }

    fn reserve_deployment(&self) -> bool {
        self.deployments_in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.max_deployments).then_some(n + 1)
            })
            .is_ok()
    }

    fn release_deployments(&self, n: u32) {
        self.deployments_in_use.fetch_sub(n, Ordering::Relaxed);
    }
}

/// Where a message belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub deployment: u32,
    /// The number of (deployment, replica).
    pub replica: u32,
    /// False where a limit put it under `__other__`.
    pub is_own: bool,
}

/// The ids that were seen since the last full flush.
pub struct Ids {
    hasher: DefaultHashBuilder,
    by_replica: HashTable<u32>,
    by_deployment: HashTable<u32>,
    deployments: Vec<Deployment>,
    replicas: Vec<Replica>,
    reserved: u32,
    limits: IdLimits,
}

struct Deployment {
    id: Arc<str>,
    n_replicas: u32,
    other_replica: Option<u32>,
    is_own: bool,
}

struct Replica {
    deployment: u32,
    id: Arc<str>,
    is_own: bool,
}

impl Ids {
    pub fn new(limits: IdLimits) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            by_replica: HashTable::new(),
            by_deployment: HashTable::new(),
            deployments: Vec::new(),
            replicas: Vec::new(),
            reserved: 0,
            limits,
        }
    }

    /// The numbers of a deployment and its replica.
    #[inline]
    pub fn place(&mut self, deployment_id: &str, replica_id: &str) -> Place {
        let hash = hash_of(&self.hasher, &(deployment_id, replica_id));
        let (deployments, replicas) = (&self.deployments, &self.replicas);
        let found = self.by_replica.find(hash, |&number| {
            let replica = &replicas[number as usize];
            *replica.id == *replica_id
                && *deployments[replica.deployment as usize].id == *deployment_id
        });
        match found {
            Some(&number) => self.place_of(number),
            None => self.place_new(hash, deployment_id, replica_id),
        }
    }

    fn place_of(&self, number: u32) -> Place {
        let replica = &self.replicas[number as usize];
        Place {
            deployment: replica.deployment,
            replica: number,
            is_own: replica.is_own,
        }
    }

    #[cold]
    fn place_new(&mut self, hash: u64, deployment_id: &str, replica_id: &str) -> Place {
        let deployment = self.deployment(deployment_id);
        let entry = &self.deployments[deployment as usize];
        if !entry.is_own && *entry.id != *deployment_id
            || entry.n_replicas >= self.limits.max_replicas
        {
            let other = self.other_replica(deployment);
            return self.place_of(other);
        }
        let number = self.add_replica(deployment, replica_id, entry.is_own);
        let (deployments, replicas, hasher) = (&self.deployments, &self.replicas, &self.hasher);
        self.by_replica.insert_unique(hash, number, |&number| {
            let replica = &replicas[number as usize];
            hash_of(
                hasher,
                &(&*deployments[replica.deployment as usize].id, &*replica.id),
            )
        });
        self.place_of(number)
    }

    fn add_replica(&mut self, deployment: u32, replica_id: &str, is_own: bool) -> u32 {
        let number = u32::try_from(self.replicas.len()).expect("limits keep ids far below 2^32");
        self.replicas.push(Replica {
            deployment,
            id: replica_id.into(),
            is_own,
        });
        self.deployments[deployment as usize].n_replicas += 1;
        number
    }

    fn other_replica(&mut self, deployment: u32) -> u32 {
        if let Some(number) = self.deployments[deployment as usize].other_replica {
            return number;
        }
        let number = self.add_replica(deployment, OTHER, false);
        self.deployments[deployment as usize].other_replica = Some(number);
        number
    }

    fn deployment(&mut self, id: &str) -> u32 {
        let hash = hash_of(&self.hasher, id);
        let deployments = &self.deployments;
        if let Some(&number) = self
            .by_deployment
            .find(hash, |&number| *deployments[number as usize].id == *id)
        {
            return number;
        }
        if id != OTHER && !self.limits.reserve_deployment() {
            return self.deployment(OTHER);
        }
        let is_own = id != OTHER;
        self.reserved += u32::from(is_own);
        let number = u32::try_from(self.deployments.len()).expect("limits keep ids far below 2^32");
        self.deployments.push(Deployment {
            id: id.into(),
            n_replicas: 0,
            other_replica: None,
            is_own,
        });
        let (deployments, hasher) = (&self.deployments, &self.hasher);
        self.by_deployment.insert_unique(hash, number, |&number| {
            hash_of(hasher, &*deployments[number as usize].id)
        });
        number
    }

    /// Bytes held by the ids, about.
    pub fn state_bytes(&self) -> usize {
        (self.deployments.len() + self.replicas.len()) * BYTES_PER_ID
    }

    pub fn deployment_id(&self, deployment: u32) -> &Arc<str> {
        &self.deployments[deployment as usize].id
    }

    /// The deployment's id and the replica's.
    pub fn replica_ids(&self, replica: u32) -> (&Arc<str>, &Arc<str>) {
        let replica = &self.replicas[replica as usize];
        (self.deployment_id(replica.deployment), &replica.id)
    }

    /// Forgets every id: numbers given out before mean nothing any more.
    pub fn clear(&mut self) {
        self.by_replica.clear();
        self.by_deployment.clear();
        self.deployments.clear();
        self.replicas.clear();
        self.limits
            .release_deployments(std::mem::take(&mut self.reserved));
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        self.limits.release_deployments(self.reserved);
    }
}

#[inline]
fn hash_of<T: Hash + ?Sized>(hasher: &DefaultHashBuilder, value: &T) -> u64 {
    hasher.hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &Ids, place: Place) -> (String, String) {
        let (deployment, replica) = ids.replica_ids(place.replica);
        assert_eq!(deployment, ids.deployment_id(place.deployment));
        (deployment.to_string(), replica.to_string())
    }

    #[test]
    fn an_id_keeps_its_number_until_cleared() {
        let mut ids = Ids::new(IdLimits::new(10, 10));
        let a = ids.place("d", "r");
        let b = ids.place("d", "s");
        assert_eq!(ids.place("d", "r"), a);
        assert_eq!((a.deployment, a.is_own), (b.deployment, true));
        assert_eq!(names(&ids, b), ("d".to_owned(), "s".to_owned()));
    }

    #[test]
    fn past_the_limits_everything_is_other() {
        let limits = IdLimits::new(2, 2);
        let (mut ids, mut more) = (Ids::new(limits.clone()), Ids::new(limits));
        let mut seen = Vec::new();
        for deployment in ["a", "b", "c"] {
            for replica in ["1", "2", "3", "4"] {
                let place = ids_place(&mut ids, deployment, replica);
                seen.push(names(&ids, place));
            }
        }
        let seen: Vec<_> = seen.iter().map(|(d, r)| format!("{d}/{r}")).collect();
        assert_eq!(
            seen,
            [
                "a/1",
                "a/2",
                "a/__other__",
                "a/__other__",
                "b/1",
                "b/2",
                "b/__other__",
                "b/__other__"
            ]
            .into_iter()
            .chain(["__other__/__other__"; 4])
            .collect::<Vec<_>>()
        );
        // the limit on deployments is the process's
        assert!(!more.place("z", "1").is_own);
        ids.clear();
        assert!(more.place("z", "1").is_own);
    }

    fn ids_place(ids: &mut Ids, deployment: &str, replica: &str) -> Place {
        let place = ids.place(deployment, replica);
        assert_eq!(ids.place(deployment, replica), place);
        place
    }
}

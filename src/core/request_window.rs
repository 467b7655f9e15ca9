//! What is kept of the requests of one window: counts, sizes, the status codes, and a sketch a duration.

use super::event::{Outcome, RequestEvent, StatusClass};
use super::sketch::{Key, KeyTable, Sketch};

/// Sums and maxima over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// By [`StatusClass`]; together all requests.
    by_class: [u64; 5],
    /// By [`Outcome`]; together all requests.
    by_outcome: [u64; 5],
    /// Status 499 or outcome `client_gone`.
    pub client_gone: u64,
    pub cold_starts: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub in_flight_max: u32,
}

impl RequestCounts {
    #[inline]
    fn record(&mut self, event: &RequestEvent) {
        self.by_class[event.status.class() as usize] += 1;
        self.by_outcome[event.outcome as usize] += 1;
        self.client_gone += u64::from(event.is_client_gone());
        self.cold_starts += u64::from(event.cold_start);
        // a sum of sizes from outside must not overflow: at the top it stays
        self.request_bytes = self.request_bytes.saturating_add(event.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(event.response_bytes);
        self.in_flight_max = self.in_flight_max.max(event.in_flight);
    }

    fn merge(&mut self, other: &Self) {
        for (sum, more) in self.by_class.iter_mut().zip(other.by_class) {
            *sum += more;
        }
        for (sum, more) in self.by_outcome.iter_mut().zip(other.by_outcome) {
            *sum += more;
        }
        self.client_gone += other.client_gone;
        self.cold_starts += other.cold_starts;
        self.request_bytes = self.request_bytes.saturating_add(other.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(other.response_bytes);
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
    }

    pub fn requests(&self) -> u64 {
        self.by_class.iter().sum()
    }

    pub const fn class(&self, class: StatusClass) -> u64 {
        self.by_class[class as usize]
    }

    pub const fn outcome(&self, outcome: Outcome) -> u64 {
        self.by_outcome[outcome as usize]
    }
}

/// Requests by status code. Most windows see one to three codes, which stand inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusCodes {
    codes: [u16; 3],
    counts: [u64; 3],
    more: Vec<(u16, u64)>,
}

impl StatusCodes {
    /// Codes outside 100–599 are kept together as 0, so that nonsense from outside makes at most one entry.
    const NONSENSE: u16 = 0;

    #[inline]
    fn record(&mut self, code: u16) {
        let code = if (100..600).contains(&code) {
            code
        } else {
            Self::NONSENSE
        };
        self.add(code, 1);
    }

    #[inline]
    fn add(&mut self, code: u16, count: u64) {
        for (known, sum) in self.codes.iter_mut().zip(&mut self.counts) {
            if *sum == 0 {
                *known = code;
            }
            if *known == code {
                *sum += count;
                return;
            }
        }
        match self.more.iter_mut().find(|(known, _)| *known == code) {
            Some((_, sum)) => *sum += count,
            None => self.more.push((code, count)),
        }
    }

    /// (code, requests), each code once, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.codes
            .iter()
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(&code, &count)| (code, count))
            .chain(self.more.iter().copied())
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn is_empty(&self) -> bool {
        self.counts[0] == 0
    }
}

/// The keys of the two durations that an event's deployment and its replica both record.
#[derive(Debug, Clone, Copy)]
pub struct CommonKeys {
    end_to_end: Key,
    inference: Option<Key>,
}

impl CommonKeys {
    #[inline]
    pub fn of(event: &RequestEvent, keys: &KeyTable) -> Self {
        Self {
            end_to_end: keys.key(event.end_to_end_us),
            inference: event.inference_us().map(|us| keys.key(us)),
        }
    }
}

/// One deployment's requests of one window.
#[derive(Default)]
pub struct RequestWindow {
    pub counts: RequestCounts,
    pub end_to_end: Sketch,
    pub inference: Sketch,
    pub first_byte: Sketch,
    pub queue: Sketch,
    /// Rare, so it stands apart.
    pub cold_start: Option<Box<Sketch>>,
    pub status_codes: StatusCodes,
}

impl RequestWindow {
    /// Records one request, `common` being its keys. Returns by how many bytes the window grew.
    #[inline]
    pub fn record(&mut self, event: &RequestEvent, common: CommonKeys, keys: &KeyTable) -> usize {
        self.counts.record(event);
        if let Some(code) = event.status.code() {
            self.status_codes.record(code);
        }
        let mut grown = self.end_to_end.insert_key(common.end_to_end);
        if let Some(key) = common.inference {
            grown += self.inference.insert_key(key);
        }
        if let Some(us) = event.first_byte_us() {
            grown += self.first_byte.insert_key(keys.key(us));
        }
        if let Some(us) = event.queue_us() {
            grown += self.queue.insert_key(keys.key(us));
        }
        if let Some(us) = event.cold_start_us() {
            grown += self
                .cold_start
                .get_or_insert_default()
                .insert_key(keys.key(us));
        }
        grown
    }

    /// Adds another window's requests. Returns by how many bytes this one grew.
    pub fn merge(&mut self, other: &Self) -> usize {
        self.counts.merge(&other.counts);
        for (code, count) in other.status_codes.iter() {
            self.status_codes.add(code, count);
        }
        let mut grown = self.end_to_end.merge(&other.end_to_end)
            + self.inference.merge(&other.inference)
            + self.first_byte.merge(&other.first_byte)
            + self.queue.merge(&other.queue);
        if let Some(theirs) = &other.cold_start {
            grown += self.cold_start.get_or_insert_default().merge(theirs);
        }
        grown
    }
}

/// One replica's requests of one window: counts and the two times that tell a slow replica.
#[derive(Default)]
pub struct ReplicaRequestWindow {
    pub counts: RequestCounts,
    pub end_to_end: Sketch,
    pub inference: Sketch,
}

impl ReplicaRequestWindow {
    /// Records one request, `common` being its keys. Returns by how many bytes the window grew.
    #[inline]
    pub fn record(&mut self, event: &RequestEvent, common: CommonKeys) -> usize {
        self.counts.record(event);
        let mut grown = self.end_to_end.insert_key(common.end_to_end);
        if let Some(key) = common.inference {
            grown += self.inference.insert_key(key);
        }
        grown
    }

    /// Adds another window's requests. Returns by how many bytes this one grew.
    pub fn merge(&mut self, other: &Self) -> usize {
        self.counts.merge(&other.counts);
        self.end_to_end.merge(&other.end_to_end) + self.inference.merge(&other.inference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_counted_once_each_and_nonsense_together() {
        let mut codes = StatusCodes::default();
        for code in [200, 200, 404, 503, 7, 60_000, 500, 404] {
            codes.record(code);
        }
        let mut all: Vec<_> = codes.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(0, 2), (200, 2), (404, 2), (500, 1), (503, 1)]);
        assert_eq!(codes.len(), 5);
    }

    #[test]
    fn a_window_of_few_requests_is_small() {
        // the limit on memory is counted in windows, so that their size is part of the contract
        assert!(
            size_of::<RequestWindow>() <= 512,
            "{}",
            size_of::<RequestWindow>()
        );
        assert!(size_of::<ReplicaRequestWindow>() <= 256);
    }
}

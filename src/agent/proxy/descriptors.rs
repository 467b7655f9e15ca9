//! How many clients the process's file descriptors are enough for. Each takes two, its own and one to the server; without
//! a limit a flood of clients would leave none for the server, for Kafka and for the spool.

/// For the spool's files, Kafka, the admin page, posted events, the readiness check and what is read of the machine.
const RESERVED: usize = 128;

/// As many as were wished for, or as the descriptors are enough for: then it says so.
pub fn affordable(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(enough_for) = enough_for(&limits).filter(|&enough_for| enough_for < wanted) else {
        return wanted;
    };
    tracing::info!(
        wanted,
        connections = enough_for,
        "file descriptors (ulimit -n) allow fewer connections than --max-connections"
    );
    enough_for
}

/// None where there is no limit, or none can be read.
fn enough_for(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"));
    let soft: usize = line?.split_whitespace().next()?.parse().ok()?;
    Some((soft.saturating_sub(RESERVED) / 2).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_for_the_rest() {
        let limits = |soft: &str| {
            format!(
                "Limit  Soft Limit\nMax open files            {soft}   4096   files \nMax x 1 1"
            )
        };
        assert_eq!(enough_for(&limits("1024")), Some(448));
        assert_eq!(enough_for(&limits("100")), Some(1));
        assert_eq!(enough_for(&limits("unlimited")), None);
        assert_eq!(enough_for(""), None);
    }
}

//! The faults that the bench has, and which of them strike in which round.

use std::time::Duration;

use crate::support::fault_proxy::{Act, Fault, Hold};
use crate::support::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// The network or the engine fails one insert or look at a ledger.
    Wire(Fault),
    /// SIGKILL of a processor at this very request.
    KillAt(Hold),
    /// SIGKILL of a processor whose insert is still on the wire; it arrives when its successor has gone on.
    LateInsert,
    /// SIGKILL of a processor, at any moment.
    KillProcessor,
    /// SIGKILL of a processor while a third one joins the group.
    KillInRebalance,
    /// SIGKILL of a processor, and of its successor within its first seconds.
    KillYoung,
    /// SIGKILL of the engine, at any moment.
    KillEngine,
    /// SIGKILL of the engine as soon as it was sent an insert.
    KillEngineAtInsert,
    /// A processor and the engine at once.
    KillBoth,
    /// SIGKILL of the broker.
    KillBroker,
    /// The engine is away for a while.
    EngineAway,
    /// A processor stands still until the other has its partitions, and then goes on as if nothing had been. What it
    /// still holds must be refused, and it must live on.
    Freeze,
    /// Members join and leave.
    Churn,
    /// A third process believes that it owns every partition, and writes them.
    TwoOwners,
    CommitsDeleted,
    CommitsSetBack,
    CommitsSetAhead,
}

/// The moment at which the engine has an insert, or most of one.
pub const AT_INSERT: Act = Act::Hold(Hold::DuringInsert);

/// How long a stall lasts in a short run, and at most in a long one.
const SHORT_STALL: Duration = Duration::from_secs(2);
const LONGEST_STALL_S: i64 = 60;

/// One in so many stalls of a long run is a long one: longer than every timeout of the processor.
const LONG_STALLS: f64 = 0.25;

impl Strike {
    pub const ALL: [Self; 33] = [
        Self::Wire(Fault::CutRequest),
        Self::Wire(Fault::CutAnswer),
        Self::Wire(Fault::StallRequest(SHORT_STALL)),
        Self::Wire(Fault::StallAnswer(SHORT_STALL)),
        Self::Wire(Fault::Twice),
        Self::Wire(Fault::ExceptionThoughStored),
        Self::Wire(Fault::ExceptionAndNotStored),
        Self::Wire(Fault::FalseOk),
        Self::Wire(Fault::ErrorThoughStored),
        Self::Wire(Fault::ErrorAndNotStored),
        Self::Wire(Fault::Refuse),
        Self::Wire(Fault::LittleMemory),
        Self::Wire(Fault::CutLedger),
        Self::KillAt(Hold::BeforeInsert),
        Self::KillAt(Hold::DuringInsert),
        Self::KillAt(Hold::AfterInsert),
        Self::KillAt(Hold::BeforeLedger),
        Self::KillAt(Hold::AfterLedger),
        Self::LateInsert,
        Self::KillProcessor,
        Self::KillInRebalance,
        Self::KillYoung,
        Self::KillEngine,
        Self::KillEngineAtInsert,
        Self::KillBoth,
        Self::KillBroker,
        Self::EngineAway,
        Self::Freeze,
        Self::Churn,
        Self::TwoOwners,
        Self::CommitsDeleted,
        Self::CommitsSetBack,
        Self::CommitsSetAhead,
    ];

    /// What the proxy of the processor that is struck does for it.
    pub fn act(self) -> Option<Act> {
        match self {
            Self::Wire(fault) => Some(Act::Fail(fault)),
            Self::KillAt(hold) => Some(Act::Hold(hold)),
            Self::LateInsert => Some(Act::Hold(Hold::BeforeInsert)),
            _ => None,
        }
    }

    /// Whether a member of the group dies.
    pub fn is_of_a_member(self) -> bool {
        matches!(
            self,
            Self::KillAt(_)
                | Self::LateInsert
                | Self::KillProcessor
                | Self::KillInRebalance
                | Self::KillYoung
                | Self::KillBoth
        )
    }

    /// Its name in the report.
    pub fn name(self) -> String {
        match self {
            Self::Wire(Fault::StallRequest(_)) => "StallRequest".to_owned(),
            Self::Wire(Fault::StallAnswer(_)) => "StallAnswer".to_owned(),
            Self::Wire(fault) => format!("{fault:?}"),
            Self::KillAt(hold) => format!("KillProcessor{hold:?}"),
            other => format!("{other:?}"),
        }
    }

    fn lengthened(self, random: &mut Random) -> Self {
        let long = |random: &mut Random| {
            if random.chance(LONG_STALLS) {
                Duration::from_secs(random.between(35, LONGEST_STALL_S + 1).unsigned_abs())
            } else {
                Duration::from_millis(random.between(100, 5_000).unsigned_abs())
            }
        };
        match self {
            Self::Wire(Fault::StallRequest(_)) => Self::Wire(Fault::StallRequest(long(random))),
            Self::Wire(Fault::StallAnswer(_)) => Self::Wire(Fault::StallAnswer(long(random))),
            other => other,
        }
    }
}

/// The faults of each round: every kind comes before any comes again, every second round has a pair.
pub fn rounds(random: &mut Random, n: usize, is_long: bool) -> Vec<Vec<Strike>> {
    let mut bag = Vec::new();
    let mut next = |random: &mut Random| {
        if bag.is_empty() {
            bag = Strike::ALL.to_vec();
            random.shuffle(&mut bag);
        }
        let strike = bag.pop().expect("it was filled");
        if is_long {
            strike.lengthened(random)
        } else {
            strike
        }
    };
    (0..n)
        .map(|round| (0..1 + round % 2).map(|_| next(random)).collect())
        .collect()
}

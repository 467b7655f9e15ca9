//! The outbox under any order of pushes, sends, answers and failures: every event is waiting, delivered or counted lost.

use proptest::prelude::*;

use super::*;
use crate::core::table::Stream;

const ROOMY: Room = Room {
    spool_bytes: 1 << 30,
    memory_bytes: 1 << 30,
    age_us: i64::MAX,
};

fn name(sequence: i64) -> Name {
    Name {
        created_us: sequence,
        boot_id: [1; 16],
        stream: Stream::Requests,
        sequence,
        n_events: 1,
    }
}

fn lost(losses: &Losses) -> u64 {
    Loss::ALL.iter().map(|&loss| losses.get(loss)).sum()
}

fn on_disk(dir: &std::path::Path, room: Room) -> Outbox {
    Outbox::new(Some(Spool::open(dir, "d").expect("opens")), room)
}

#[test]
fn without_a_disk_the_memory_is_bounded_and_the_oldest_goes() {
    let losses = Losses::default();
    let mut outbox = Outbox::new(
        None,
        Room {
            memory_bytes: 30,
            ..ROOMY
        },
    );
    for sequence in 0..5 {
        let kept = outbox.push(name(sequence), vec![0; 10], &losses);
        assert!(matches!(kept, Kept::InMemory(None)));
    }
    assert_eq!(losses.get(Loss::MemoryFull), 2);
    assert_eq!(outbox.backlog().n_events_in_memory, 3);
    let next = outbox.next(&losses).expect("one waits");
    assert_eq!(next.name.sequence, 2);
}

#[test]
fn what_is_sent_is_never_given_up() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let losses = Losses::default();
    let room = Room {
        spool_bytes: 4 * 4096,
        ..ROOMY
    };
    let mut outbox = on_disk(dir.path(), room);
    outbox.push(name(0), vec![0; 10], &losses);
    let sent = outbox.next(&losses).expect("one waits");
    assert_eq!(outbox.next(&losses), None);
    for sequence in 1..10 {
        outbox.push(name(sequence), vec![0; 10], &losses);
    }
    assert_eq!(losses.get(Loss::SpoolFull), 6);
    assert_eq!(outbox.next(&losses), None, "a quarter is under way");
    assert_eq!(outbox.delivered(sent.id), Some(name(0)));
    assert_eq!(outbox.next(&losses).map(|o| o.name.sequence), Some(7));
}

#[test]
fn old_messages_expire_unless_sent() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let losses = Losses::default();
    let mut outbox = on_disk(
        dir.path(),
        Room {
            age_us: 10,
            ..ROOMY
        },
    );
    for sequence in 0..4 {
        outbox.push(name(sequence), vec![1], &losses);
    }
    let sent = outbox.next(&losses).expect("one waits");
    outbox.expire(12, &losses);
    assert_eq!(losses.get(Loss::SpoolExpired), 2);
    outbox.returned(sent.id);
    assert_eq!(outbox.next(&losses).map(|o| o.name.sequence), Some(0));
}

#[test]
fn a_torn_file_is_counted_and_the_next_is_sent() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let losses = Losses::default();
    let mut outbox = on_disk(dir.path(), ROOMY);
    outbox.push(name(0), b"whole".to_vec(), &losses);
    outbox.push(name(1), b"next".to_vec(), &losses);
    let file = dir.path().join(format!("deployment-d/0/{}", name(0)));
    std::fs::write(file, b"mms1 torn").expect("written");
    let next = outbox.next(&losses).expect("the other");
    assert_eq!(next.message, b"next");
    assert_eq!(losses.get(Loss::SpoolDamaged), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Push,
    Send,
    Deliver(usize),
    Return(usize),
    Refuse(usize),
    Expire,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        3 => Just(Step::Send),
        2 => (0usize..8).prop_map(Step::Deliver),
        2 => (0usize..8).prop_map(Step::Return),
        1 => (0usize..8).prop_map(Step::Refuse),
        1 => Just(Step::Expire),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pushed = delivered + lost + left, whatever happens, starts anew among it; and what is sent keeps its bytes.
    #[test]
    fn every_event_is_accounted_for(steps in prop::collection::vec(step(), 1..120)) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let losses = Losses::default();
        let room = Room { spool_bytes: 12 * 4096, age_us: 20, ..ROOMY };
        let mut outbox = on_disk(dir.path(), room);
        let (mut n_pushed, mut n_delivered, mut sent) = (0i64, 0, Vec::new());
        for step in steps {
            match step {
                Step::Push => {
                    let message = n_pushed.to_string().into_bytes();
                    outbox.push(name(n_pushed), message, &losses);
                    n_pushed += 1;
                }
                Step::Send => if let Some(next) = outbox.next(&losses) {
                    prop_assert_eq!(&next.message, &next.name.sequence.to_string().into_bytes());
                    sent.push(next.id);
                },
                Step::Deliver(n) if n < sent.len() => {
                    n_delivered += u64::from(outbox.delivered(sent.remove(n)).is_some());
                }
                Step::Return(n) if n < sent.len() => outbox.returned(sent.remove(n)),
                Step::Refuse(n) if n < sent.len() => outbox.refused(sent.remove(n), &losses),
                Step::Expire => outbox.expire(n_pushed, &losses),
                Step::Restart => {
                    drop(outbox);
                    sent.clear();
                    outbox = on_disk(dir.path(), room);
                }
                _ => {}
            }
            let backlog = outbox.backlog();
            prop_assert!(backlog.spool_bytes <= room.spool_bytes);
            prop_assert_eq!(backlog.n_events + n_delivered + lost(&losses), n_pushed.cast_unsigned());
        }
        let files = std::fs::read_dir(dir.path().join("deployment-d/0")).expect("there").count();
        prop_assert_eq!(files as u64, outbox.backlog().n_messages);
    }
}

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

/// The first message of a new lot.
fn begin_lot(outbox: &mut Outbox, losses: &Losses) -> Option<Outgoing> {
    for stream in Stream::ALL {
        outbox.open_lot(stream);
    }
    outbox.next(losses)
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
    let next = begin_lot(&mut outbox, &losses).expect("one waits");
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
    let sent = begin_lot(&mut outbox, &losses).expect("one waits");
    for sequence in 1..10 {
        outbox.push(name(sequence), vec![0; 10], &losses);
    }
    assert_eq!(losses.get(Loss::SpoolFull), 6);
    assert_eq!(outbox.next(&losses), None, "an eighth is under way");
    assert_eq!(outbox.delivered(sent.id), Some(name(0)));
    let next = begin_lot(&mut outbox, &losses);
    assert_eq!(next.map(|o| o.name.sequence), Some(7));
}

#[test]
fn a_stream_sends_one_lot_at_a_time_and_waits_for_no_other() {
    let losses = Losses::default();
    let mut outbox = Outbox::new(None, ROOMY);
    let half = vec![0; MAX_LOT_BYTES as usize / 2];
    for sequence in 0..4 {
        outbox.push(name(sequence), half.clone(), &losses);
    }
    let first = begin_lot(&mut outbox, &losses).expect("one waits");
    let second = outbox.next(&losses).expect("it fits");
    assert_eq!((first.name.sequence, second.name.sequence), (0, 1));
    assert_eq!(outbox.next(&losses), None, "the lot is full");
    outbox.delivered(first.id);
    assert_eq!(begin_lot(&mut outbox, &losses), None, "not all is there");
    let sample = Name {
        stream: Stream::Replicas,
        ..name(9)
    };
    outbox.push(sample, vec![1], &losses);
    let sent = begin_lot(&mut outbox, &losses).map(|next| next.name);
    assert_eq!(sent, Some(sample), "the other stream has nothing under way");
    assert_eq!(outbox.returned(second.id), Some(Stream::Requests));
    let again = begin_lot(&mut outbox, &losses).map(|next| next.name);
    assert_eq!(again, Some(second.name), "in its old place");
}

#[test]
fn a_message_of_more_than_a_lot_goes_by_itself() {
    let losses = Losses::default();
    let mut outbox = Outbox::new(None, ROOMY);
    outbox.push(name(0), vec![0; MAX_LOT_BYTES as usize + 1], &losses);
    outbox.push(name(1), vec![1], &losses);
    assert!(begin_lot(&mut outbox, &losses).is_some());
    assert_eq!(outbox.next(&losses), None);
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
    let sent = begin_lot(&mut outbox, &losses).expect("one waits");
    outbox.expire(12, &losses);
    assert_eq!(losses.get(Loss::SpoolExpired), 2);
    outbox.returned(sent.id);
    let next = begin_lot(&mut outbox, &losses);
    assert_eq!(next.map(|o| o.name.sequence), Some(0));
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
    let next = begin_lot(&mut outbox, &losses).expect("the other");
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
        let room = Room { spool_bytes: 24 * 4096, age_us: 20, ..ROOMY };
        let mut outbox = on_disk(dir.path(), room);
        let (mut n_pushed, mut n_delivered, mut sent) = (0i64, 0, Vec::new());
        for step in steps {
            match step {
                Step::Push => {
                    let message = n_pushed.to_string().into_bytes();
                    let stream = Stream::ALL[n_pushed as usize % 2];
                    outbox.push(Name { stream, ..name(n_pushed) }, message, &losses);
                    n_pushed += 1;
                }
                Step::Send => {
                    let mut next = begin_lot(&mut outbox, &losses);
                    while let Some(Outgoing { id, name, message }) = next {
                        prop_assert_eq!(message, name.sequence.to_string().into_bytes());
                        sent.push(id);
                        next = outbox.next(&losses);
                    }
                }
                Step::Deliver(n) if n < sent.len() => {
                    n_delivered += u64::from(outbox.delivered(sent.remove(n)).is_some());
                }
                Step::Return(n) if n < sent.len() => {
                    prop_assert!(outbox.returned(sent.remove(n)).is_some());
                }
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
        for id in sent {
            outbox.returned(id);
        }
        prop_assert_eq!(begin_lot(&mut outbox, &losses).is_none(), outbox.is_empty());
    }
}

//! Each list against a machine of four GPUs, the last of them in two parts.

use super::*;

fn machine() -> Vec<Candidate> {
    let gpu = |index: u32, uuid: &str, mig_index: Option<u32>| Candidate {
        uuid: mig_index.map_or(format!("GPU-{uuid}"), |part| format!("MIG-{uuid}-{part}")),
        gpu_uuid: format!("GPU-{uuid}"),
        gpu_index: index,
        mig_index,
    };
    vec![
        gpu(0, "aa", None),
        gpu(1, "ab", None),
        gpu(2, "cc", None),
        gpu(3, "dd", Some(0)),
        gpu(3, "dd", Some(1)),
    ]
}

fn seen(person: Option<&str>, cuda: Option<&str>, nvidia: Option<&str>) -> Vec<String> {
    Visible::new(person, cuda, nvidia)
        .pick(&machine())
        .into_iter()
        .map(|c| c.uuid)
        .collect()
}

#[test]
fn without_a_list_all_are_seen() {
    assert_eq!(seen(None, None, None).len(), 5);
    for all in ["all", "void", ""] {
        assert_eq!(seen(None, None, Some(all)).len(), 5, "{all:?}");
    }
}

#[test]
fn a_list_may_hide_all() {
    assert!(Visible::new(Some("none"), None, None).is_none());
    assert!(Visible::new(None, Some(""), None).is_none());
    assert!(Visible::new(None, Some("-1"), None).is_none());
    assert!(Visible::new(None, None, Some("none")).is_none());
    assert!(!Visible::new(None, None, Some("void")).is_none());
}

#[test]
fn indexes_uuids_and_parts_name_gpus() {
    assert_eq!(seen(Some("2,0"), None, None), ["GPU-cc", "GPU-aa"]);
    assert_eq!(seen(Some("GPU-ab"), None, None), ["GPU-ab"]);
    assert_eq!(seen(None, Some("GPU-c"), None), ["GPU-cc"], "a beginning");
    assert_eq!(seen(None, Some("MIG-dd-1"), None), ["MIG-dd-1"]);
    assert_eq!(seen(None, None, Some("3:0")), ["MIG-dd-0"]);
    let parts = ["MIG-dd-0", "MIG-dd-1"];
    assert_eq!(seen(Some("3"), None, None), parts);
    assert_eq!(seen(Some("GPU-dd"), None, None), parts);
}

#[test]
fn cuda_counts_what_the_container_is_shown_and_stops_at_what_is_none() {
    assert_eq!(seen(None, Some("1"), Some("1,2")), ["GPU-cc"]);
    assert_eq!(seen(None, Some("0,9,1"), None), ["GPU-aa"]);
    assert_eq!(seen(None, Some("nonsense"), None), Vec::<String>::new());
}

#[test]
fn the_hosts_indexes_mean_all_where_the_container_is_shown_as_many() {
    assert_eq!(seen(None, None, Some("4,5,6,7")).len(), 5);
    assert_eq!(seen(None, None, Some("4,5")), Vec::<String>::new());
    // a person counts what there is
    assert_eq!(seen(Some("4,5,6,7"), None, None), Vec::<String>::new());
}

#[test]
fn a_missing_driver_is_worth_a_warning_only_where_gpus_are_expected() {
    assert!(!Visible::new(None, None, None).is_asked_for());
    assert!(!Visible::new(None, Some("0"), None).is_asked_for());
    assert!(Visible::new(Some("0"), None, None).is_asked_for());
    assert!(Visible::new(None, None, Some("all")).is_asked_for());
    assert!(!Visible::new(None, None, Some("none")).is_asked_for());
}

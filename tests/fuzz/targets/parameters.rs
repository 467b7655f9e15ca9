//! Flags and query strings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelmeter::config::{KafkaOption, StoreArgs, parse_duration};
use modelmeter::dashboard::query_string::{PanelQuery, refuse_all};

fuzz_target!(|text: &str| {
    if let Ok(duration) = parse_duration(text) {
        assert!(!duration.is_zero(), "a duration is above zero");
    }
    let _ = text.parse::<KafkaOption>();
    let _ = PanelQuery::parse(text);
    let _ = refuse_all(text);
    for url in [text.to_owned(), format!("http://{text}")] {
        let args = StoreArgs {
            url,
            database: None,
            user: String::new(),
            password: "secret-of-nobody".to_owned(),
        };
        assert!(
            !format!("{args:?}").contains(&args.password),
            "a password in a log"
        );
        let _ = args.address();
    }
});

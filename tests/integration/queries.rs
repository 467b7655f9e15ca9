//! The README's queries, run as they stand there: what a reader pastes must work.

use crate::support::generator::{self, Schemas};
use crate::support::publish::Publisher;
use crate::support::random::{self, Random};
use crate::support::space::Space;

/// As many as the README promises.
const N_QUERIES: usize = 6;

fn readme_queries() -> Vec<String> {
    let text = std::fs::read_to_string(crate::support::root().join("README.md")).expect("a README");
    let blocks = text.split("```sql\n").skip(1);
    blocks
        .map(|rest| {
            rest.split("```")
                .next()
                .expect("a block ends")
                .trim()
                .trim_end_matches(';')
                .to_owned()
        })
        .collect()
}

#[test]
fn the_readmes_queries_run_as_they_stand() {
    let queries = readme_queries();
    assert_eq!(queries.len(), N_QUERIES, "{queries:#?}");
    let space = Space::new();
    let publisher = Publisher::new(&space.kafka, &space.topics);
    let mut random = Random::new(random::seed("queries"));
    for message in generator::load(
        &mut random,
        &Schemas::built_in(),
        modelmeter::clock::now_us(),
    ) {
        publisher.send(message);
    }
    publisher.flush();
    let mut processor = space.processor(&[]);
    space.wait_until_counted(&publisher.ends(), &mut [&mut processor]);
    for query in queries {
        let rows = space.sql.rows(&query);
        // what never came shows nothing where all has come
        let asks_for_loss = query.contains("missing > 0");
        assert!(
            asks_for_loss || !rows.is_empty(),
            "a query of the README shows nothing:\n{query}"
        );
    }
}

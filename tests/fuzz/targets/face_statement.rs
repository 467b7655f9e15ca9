//! Any bytes as a statement of SQL to the face of the engine, and as what the engine answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelmeter::local::clickhouse::front;

fuzz_target!(|data: &[u8]| {
    front::read_statement(data);
    front::read_exception(&String::from_utf8_lossy(data));
});

//! A whole request to the face of the engine, up to where the engine would get it: a line with the URL, lines of headers,
//! an empty line, the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelmeter::local::clickhouse::front;

fuzz_target!(|data: &[u8]| {
    let at = data
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .unwrap_or(data.len());
    let (head, body) = (&data[..at], data.get(at + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let url = lines.next().unwrap_or_default();
    let headers = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], &line[colon + 1..]))
    });
    let _ = front::plan_request(url, headers, body);
});

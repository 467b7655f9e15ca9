//! What a ClickHouse, or something that answers in its place, may say to an insert.
#![no_main]

use libfuzzer_sys::fuzz_target;
use modelmeter::store::insert::InsertError;

fuzz_target!(|data: &[u8]| {
    let (head, text) = data.split_at(data.len().min(3));
    let status = head
        .iter()
        .fold(0, |status, byte| status * 10 + u16::from(*byte % 10));
    let text = String::from_utf8_lossy(text);
    let (code, text) = text.split_once('\n').unwrap_or(("", &text));
    if let Err(error) = InsertError::of_answer(status, Some(code), text) {
        let _ = (
            error.is_busy(),
            error.is_fenced(),
            error.is_defect(),
            error.to_string(),
        );
    }
    let _ = InsertError::of_answer(status, None, text);
});

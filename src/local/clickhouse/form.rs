//! A request sent as a form (`multipart/form-data`), as clients do when parameters are too long for a URL: fields are
//! parameters, files are external tables. It refuses forms past a size and files without a structure.

use bytes::Bytes;

use super::engine::Param;
use super::exception::{Exception, code};
use super::request::Request;

/// A form is held in memory: it carries parameters and small tables.
pub const MAX_FORM_BYTES: usize = 64 << 20;

/// A table that a query brings along.
#[derive(Debug, PartialEq, Eq)]
pub struct ExternalTable {
    pub name: String,
    pub structure: String,
    pub format: String,
    pub data: Bytes,
}

/// Takes the form's fields into `request` and gives its files.
///
/// # Errors
/// When the form is cut or malformed.
pub fn read(
    body: &Bytes,
    boundary: &str,
    request: &mut Request,
) -> Result<Vec<ExternalTable>, Exception> {
    let malformed = || {
        Exception::new(
            code::CANNOT_READ_ALL_DATA,
            "the form is malformed or cut short",
        )
    };
    let opening = format!("--{boundary}");
    let delimiter = format!("\r\n--{boundary}");
    let mut at = find(body, opening.as_bytes(), 0).ok_or_else(malformed)? + opening.len();
    let mut files = Vec::new();
    while !body[at..].starts_with(b"--") {
        let head = at + 2;
        let head_end = find(body, b"\r\n\r\n", at).ok_or_else(malformed)?;
        let end = find(body, delimiter.as_bytes(), head_end + 2).ok_or_else(malformed)?;
        let headers =
            String::from_utf8_lossy(body.get(head..head_end).unwrap_or_default()).into_owned();
        let data = body.slice((head_end + 4).min(end)..end);
        let name = disposition(&headers, "name").ok_or_else(malformed)?;
        if disposition(&headers, "filename").is_some() {
            files.push((name, data));
        } else {
            let value = String::from_utf8(data.to_vec()).map_err(|_| malformed())?;
            request.set(name, value)?;
        }
        at = end + delimiter.len();
    }
    files
        .into_iter()
        .map(|(name, data)| external_table(name, data, &mut request.settings))
        .collect()
}

fn external_table(
    name: String,
    data: Bytes,
    settings: &mut Vec<Param>,
) -> Result<ExternalTable, Exception> {
    let mut take = |suffix: &str| {
        let wanted = format!("{name}_{suffix}");
        let at = settings
            .iter()
            .position(|(setting, _)| *setting == wanted)?;
        Some(settings.swap_remove(at).1)
    };
    let format = take("format").unwrap_or_else(|| "TabSeparated".to_owned());
    let types = take("types").map(|types| {
        let columns = types.split(',').enumerate();
        columns
            .map(|(at, kind)| format!("_{} {kind}", at + 1))
            .collect::<Vec<_>>()
            .join(", ")
    });
    let structure = take("structure").or(types).ok_or_else(|| {
        Exception::new(
            code::BAD_ARGUMENTS,
            format!("the table {name:?} has neither {name}_structure nor {name}_types"),
        )
    })?;
    Ok(ExternalTable {
        name,
        structure,
        format,
        data,
    })
}

/// `name="…"` of a part's `Content-Disposition`.
fn disposition(headers: &str, key: &str) -> Option<String> {
    let line = headers.lines().find(|line| {
        line.get(..20)
            .is_some_and(|start| start.eq_ignore_ascii_case("content-disposition:"))
    })?;
    let at = line.find(&format!("; {key}=\""))? + key.len() + 4;
    line[at..].split('"').next().map(str::to_owned)
}

fn find(body: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let first = *wanted.first()?;
    let mut at = from;
    loop {
        at += body.get(at..)?.iter().position(|byte| *byte == first)?;
        if body[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT 1\r\n--B\r\n\
        Content-Disposition: form-data; name=\"param_x\"\r\nContent-Type: text/plain\r\n\r\na\r\nb\r\n--B\r\n\
        Content-Disposition: form-data; name=\"t_types\"\r\n\r\nUInt8,String\r\n--B\r\n\
        Content-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\tx\n\r\n--B--\r\n";

    #[test]
    fn fields_are_parameters_and_files_are_tables() {
        let mut request = Request::default();
        let files = read(&Bytes::from_static(FORM.as_bytes()), "B", &mut request).expect("a form");
        assert_eq!(request.query, "SELECT 1");
        assert_eq!(request.params, [("x".to_owned(), "a\r\nb".to_owned())]);
        assert!(request.settings.is_empty());
        assert_eq!(files.len(), 1);
        assert_eq!(
            (files[0].structure.as_str(), &files[0].data[..]),
            ("_1 UInt8, _2 String", &b"1\tx\n"[..])
        );
    }

    #[test]
    fn a_form_cut_anywhere_is_refused() {
        for cut in 0..FORM.len() - 4 {
            let form = Bytes::copy_from_slice(&FORM.as_bytes()[..cut]);
            assert!(
                read(&form, "B", &mut Request::default()).is_err(),
                "cut at {cut}"
            );
        }
    }
}

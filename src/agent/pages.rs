//! Lets go of the pages of the program that only its start needed: what parses flags and makes clients is a quarter of what
//! an agent holds beside a model. Their memory is the page cache's, which then may forget them where memory is short. Owns
//! which pages these are, and refuses every page that could ever have been written to: what is needed after all is mapped
//! from the program's file again.

use std::fs;
use std::ops::Range;
use std::time::Duration;

/// By then most agents have asked their server, looked for GPUs and reached Kafka. One that has not maps again what it needs
/// for that.
const START: Duration = Duration::from_secs(8);

/// Lets go of them once the start is over.
pub async fn let_go_after_start() {
    tokio::time::sleep(START).await;
    let_go();
}

fn let_go() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for range in clean_ranges(&maps, let_go as *const () as usize) {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the range is a private mapping of this program's own file that is not writable and that the program never
        // wrote to (it is linked without text relocations), so that its pages are the file's and the kernel maps them anew
        // when they are next read or run, whichever thread does so (madvise(2)). A debugger's breakpoint in them is lost.
        let code = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
        if code != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "the program's pages are kept");
        }
    }
}

/// Where the program that holds the address `own` keeps its code, and the constants at its file's beginning. What else is not
/// writable now was written by the dynamic linker first.
fn clean_ranges(maps: &str, own: usize) -> Vec<Range<usize>> {
    let mappings: Vec<Mapping> = maps.lines().filter_map(Mapping::parse).collect();
    let Some(file) = mappings
        .iter()
        .find(|mapping| mapping.range.contains(&own))
        .map(|mapping| mapping.file)
    else {
        return Vec::new();
    };
    mappings
        .into_iter()
        .filter(|mapping| mapping.file == file && mapping.is_private && !mapping.is_writable)
        .filter(|mapping| mapping.is_code || mapping.offset == 0)
        .map(|mapping| mapping.range)
        .collect()
}

/// A line of proc(5)'s maps: `start-end perms offset device inode path`, numbers in hexadecimal.
struct Mapping<'a> {
    range: Range<usize>,
    is_private: bool,
    is_writable: bool,
    is_code: bool,
    offset: u64,
    /// Device and inode.
    file: (&'a str, &'a str),
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let permissions = fields.next()?;
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        Some(Self {
            range: start..end,
            is_private: permissions.contains('p'),
            is_writable: permissions.contains('w'),
            is_code: permissions.contains('x'),
            offset,
            file: (fields.next()?, fields.next()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
10000-20000 r--p 00000000 fe:00 42 /bin/program
20000-50000 r-xp 00010000 fe:00 42 /bin/program
50000-60000 r--p 00040000 fe:00 42 /bin/program
60000-70000 rw-p 00050000 fe:00 42 /bin/program
70000-80000 rw-p 00000000 00:00 0
80000-90000 r-xp 00000000 fe:00 43 /bin/program of another name
a0000-b0000 r-xs 00000000 fe:00 42 /bin/program
90000-a0000 r-xp 00000000 00:00 0 [vdso]
";

    #[test]
    fn only_what_the_linker_never_wrote_is_let_go() {
        assert_eq!(
            clean_ranges(MAPS, 0x20_010),
            [0x10_000..0x20_000, 0x20_000..0x50_000]
        );
        assert!(clean_ranges(MAPS, 0xF0_000).is_empty());
        assert!(clean_ranges("no maps", 0).is_empty());
    }

    fn code_kib() -> u64 {
        let own = let_go as *const () as usize;
        let smaps = fs::read_to_string("/proc/self/smaps").expect("Linux");
        let mut lines = smaps.lines();
        lines
            .find(|line| Mapping::parse(line).is_some_and(|mapping| mapping.range.contains(&own)))
            .expect("this code is mapped");
        let rss = lines.find_map(|line| line.strip_prefix("Rss:"));
        let rss = rss.and_then(|rss| rss.split_ascii_whitespace().next());
        rss.and_then(|rss| rss.parse().ok())
            .expect("a number of kB")
    }

    #[test]
    fn the_program_goes_on_with_fewer_pages() {
        // other tests, which run meanwhile, map pages too
        let has_fewer = (0..100).any(|_| {
            let before = code_kib();
            let_go();
            code_kib() < before
        });
        assert!(has_fewer);
    }
}

//! The numbers of one stream's messages in one boot: from 0, each given once. A number is taken only for a message that
//! exists, so a gap always means a message that was lost, and its loss is counted.

#[derive(Debug, Default)]
pub struct Sequence {
    next: i64,
}

impl Sequence {
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    pub const fn take(&mut self) -> i64 {
        let taken = self.next;
        self.next += 1;
        taken
    }
}

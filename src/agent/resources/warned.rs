//! One warning a cause: what is wrong every five seconds is said once, and that it is over is said once.

/// What was warned of last.
#[derive(Debug, Default)]
pub struct Warned(Option<String>);

impl Warned {
    /// True where this differs from what was said before: then it is to be said.
    pub fn is_new(&mut self, cause: &str) -> bool {
        if self.0.as_deref() == Some(cause) {
            return false;
        }
        self.0 = Some(cause.to_owned());
        true
    }

    /// True where something had been wrong until now.
    pub fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

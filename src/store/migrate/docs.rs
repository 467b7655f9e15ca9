//! What the views' columns mean, read out of the views' own COMMENTs, so that the database, the
//! printed page and the SQL files cannot say different things.

use super::files::{MIGRATIONS, Target};

/// One view as its COMMENT describes it.
#[derive(Debug, PartialEq, Eq)]
pub struct ViewDoc {
    pub name: String,
    /// What the view tells.
    pub summary: String,
    /// Empty where the view takes none.
    pub arguments: String,
    pub columns: Vec<ColumnDoc>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct ColumnDoc {
    pub name: String,
    /// Empty for counts and times of day.
    pub unit: String,
    pub meaning: String,
}

const VIEW: &str = "CREATE OR REPLACE VIEW ";
const COMMENT: &str = "COMMENT '";

/// The views in the order in which they were first made, each as its newest file has it.
pub fn views() -> Vec<ViewDoc> {
    let mut docs: Vec<ViewDoc> = Vec::new();
    for migration in &MIGRATIONS {
        for statement in migration.statements(&Target::single_with_all_settings()) {
            let Some(doc) = view(&statement) else {
                continue;
            };
            match docs.iter_mut().find(|d| d.name == doc.name) {
                Some(older) => *older = doc,
                None => docs.push(doc),
            }
        }
    }
    docs
}

/// A COMMENT is a line of summary, a line of arguments if there are any, then `name (unit): meaning` a column.
fn view(statement: &str) -> Option<ViewDoc> {
    let (_, from_name) = statement.split_once(VIEW)?;
    let name = from_name.split_whitespace().next()?;
    let (_, comment) = from_name.split_once(COMMENT)?;
    let mut lines = comment.split('\'').next()?.lines().peekable();
    let summary = lines.next()?.to_owned();
    let arguments = lines.next_if(|line| line.starts_with("Arguments: "));
    Some(ViewDoc {
        name: name.to_owned(),
        summary,
        arguments: arguments.unwrap_or_default().to_owned(),
        columns: lines.filter_map(column).collect(),
    })
}

fn column(line: &str) -> Option<ColumnDoc> {
    let (head, meaning) = line.split_once(": ")?;
    let (name, unit) = match head.split_once(" (") {
        Some((name, unit)) => (name, unit.trim_end_matches(')')),
        None => (head, ""),
    };
    Some(ColumnDoc {
        name: name.to_owned(),
        unit: unit.to_owned(),
        meaning: meaning.to_owned(),
    })
}

/// All views as Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for view in views() {
        text += &format!("## {}\n\n{}\n\n", view.name, view.summary);
        if !view.arguments.is_empty() {
            text += &format!("{}\n\n", view.arguments);
        }
        text += "| column | unit | meaning |\n|---|---|---|\n";
        for ColumnDoc {
            name,
            unit,
            meaning,
        } in &view.columns
        {
            text += &format!("| {name} | {unit} | {meaning} |\n");
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_may_have_no_unit() {
        let line = column("p50_ms (ms): the median: of all").expect("a column");
        assert_eq!((line.name.as_str(), line.unit.as_str()), ("p50_ms", "ms"));
        assert_eq!(line.meaning, "the median: of all");
        assert_eq!(
            column("t: start of the step").map(|c| c.unit).as_deref(),
            Some("")
        );
    }

    #[test]
    fn a_view_without_arguments_has_all_its_columns() {
        let views = views();
        let of = |name: &str| views.iter().find(|view| view.name == name);
        let producers = of("producers").expect("a view");
        assert!(producers.arguments.is_empty(), "{producers:?}");
        assert_eq!(producers.columns[0].name, "stream");
    }

    #[test]
    fn every_view_of_steps_is_described_with_time_and_length_first() {
        let (of_steps, others): (Vec<_>, Vec<_>) =
            views().into_iter().partition(|v| !v.arguments.is_empty());
        assert_eq!((of_steps.len(), others.len()), (5, 1));
        for view in of_steps {
            let names: Vec<&str> = view
                .columns
                .iter()
                .map(|c| c.name.as_str())
                .take(2)
                .collect();
            assert_eq!(names, ["t", "seconds"], "{}", view.name);
            assert!(view.columns.len() >= 7, "{}", view.name);
        }
    }
}

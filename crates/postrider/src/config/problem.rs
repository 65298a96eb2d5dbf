//! What is wrong with a configuration, for the person who wrote it: file, line, caret and cure.

use std::fmt;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity as Level, SourceCode,
};
use serde::Serialize;

use super::source::{Place, Sources};

/// Whether the configuration can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can, but will hardly do what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    severity: Severity,
    message: String,
    mark: Option<(Place, String)>,
    help: Option<String>,
}

/// All that was found in one reading.
#[derive(Debug)]
pub struct Problems {
    sources: Sources,
    list: Vec<Problem>,
}

impl Problem {
    /// An error that is not about one line.
    pub fn general(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), mark: None, help: None }
    }

    /// An error at a place; `label` stands beside the caret.
    pub fn at(place: &Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { mark: Some((place.clone(), label.into())), ..Self::general(message) }
    }

    /// Adds the cure.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Makes it a warning.
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

impl Problems {
    /// Puts them in the order of the files.
    pub fn new(sources: Sources, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.mark.as_ref().map(|(place, _)| (place.file(), place.span().start)));
        Self { sources, list }
    }

    /// These and more.
    pub fn and(mut self, more: Vec<Problem>) -> Self {
        self.list.extend(more);
        Self::new(self.sources, self.list)
    }

    /// Whether one of them is an error.
    pub fn fatal(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Each as text with the line it is about and a caret under the spot.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        self.list.iter().fold(String::new(), |mut text, problem| {
            if !text.is_empty() {
                text.push('\n');
            }
            let shown = Shown::new(problem, &self.sources);
            // Writing into a string cannot fail, and a problem that cannot be drawn is still told in words.
            if handler.render_report(&mut text, &shown).is_err() {
                text.push_str(&problem.message);
            }
            text
        })
    }

    /// Each as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let one = |problem: &Problem| {
            let place = problem.mark.as_ref().map(|(place, _)| place);
            serde_json::json!({
                "severity": problem.severity,
                "message": problem.message,
                "label": problem.mark.as_ref().map(|(_, label)| label),
                "file": place.map(|place| self.sources.file(place).path.display().to_string()),
                "line": place.map(|place| self.sources.line(place)),
                "help": problem.help,
            })
        };
        self.list.iter().map(one).collect()
    }
}

impl std::error::Error for Problems {}

/// In short, for a log: each message with its line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.list.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            if let Some((place, _)) = &problem.mark {
                write!(f, "{}: ", self.sources.describe(place))?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

/// A problem as miette draws it.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    code: Option<NamedSource<String>>,
}

impl<'a> Shown<'a> {
    fn new(problem: &'a Problem, sources: &Sources) -> Self {
        let code = problem.mark.as_ref().map(|(place, _)| {
            let file = sources.file(place);
            NamedSource::new(file.path.display().to_string(), file.text.to_string())
        });
        Self { problem, code }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<Level> {
        Some(match self.problem.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.code.as_ref().map(|code| code as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (place, label) = self.problem.mark.as_ref()?;
        let label = (!label.is_empty()).then(|| label.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(label, place.span()))))
    }
}

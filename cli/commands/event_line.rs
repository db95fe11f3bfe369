//! Events as lines: `12:00:01.123 counter  started (epoch 1)`.

use crate::api::event::{Event, EventKind};
use crate::api::name::Name;
use crate::terminal::clock;
use crate::terminal::output::{Output, OutputError};
use crate::terminal::style::{Palette, Style};
use crate::terminal::text::printable;

/// Prints events.
#[derive(Debug)]
pub struct EventPrinter {
    output: Output,
    width: usize,
    json: bool,
}

impl EventPrinter {
    /// A printer whose lines are aligned for these names, or that prints JSON.
    pub fn new(names: &[Name], json: bool) -> EventPrinter {
        let width = names.iter().map(|name| name.as_str().len()).max().unwrap_or(0);
        EventPrinter { output: Output::standard(), width, json }
    }

    /// Prints one.
    pub fn print(&mut self, event: &Event) -> Result<(), OutputError> {
        if self.json {
            return self.output.json(event);
        }
        let name = event.district.as_ref().map_or("", Name::as_str);
        self.width = self.width.max(name.len());
        self.output.line(&line(event, name, self.width, self.output.palette))
    }
}

fn line(event: &Event, name: &str, width: usize, palette: Palette) -> String {
    let time = palette.paint(Style::Faint, &clock::time_of_day(event.time_ms));
    let text = printable(&event.text);
    let said = match style(event) {
        Some(style) => palette.paint(style, &text),
        None => text.into_owned(),
    };
    let bar = if event.kind == EventKind::Log { "| " } else { "" };
    format!("{time} {}  {bar}{said}", palette.paint(Style::Strong, &format!("{name:<width$}")))
}

fn style(event: &Event) -> Option<Style> {
    match event.kind {
        EventKind::Started => Some(Style::Good),
        EventKind::Exited if event.exit_code == Some(0) => Some(Style::Good),
        EventKind::Exited | EventKind::Restarting | EventKind::Dropped => Some(Style::Doubtful),
        EventKind::Faulted | EventKind::Lost | EventKind::Failed | EventKind::CheckpointFailed => Some(Style::Bad),
        EventKind::Stopped | EventKind::Removed | EventKind::Progress => Some(Style::Faint),
        EventKind::Log => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::info::State;

    #[test]
    fn names_are_aligned_and_logs_marked() {
        let name = Name::new("a").unwrap();
        let started = Event::now(EventKind::Started, name.clone(), 1, State::Running, "started (epoch 1)");
        let log = Event::now(EventKind::Log, name, 1, State::Running, "hello\x1b[2J");
        let shown = |event| line(event, "a", 3, Palette::PLAIN)[12..].to_owned();
        assert_eq!(shown(&started), " a    started (epoch 1)");
        assert_eq!(shown(&log), " a    | hello\\u{1b}[2J");
    }
}

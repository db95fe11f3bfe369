//! Colours, where they are wanted: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or `TERM` is `dumb`.

use std::io::IsTerminal;

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Something went well.
    Good,
    /// Something needs a look.
    Doubtful,
    /// Something is wrong.
    Bad,
    /// Something to look past: times, prefixes.
    Faint,
    /// Something to find: headers, names.
    Strong,
}

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    coloured: bool,
}

impl Palette {
    /// Without colours.
    pub const PLAIN: Palette = Palette { coloured: false };

    /// What fits this stream.
    pub fn of(stream: &impl IsTerminal) -> Palette {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Palette { coloured: stream.is_terminal() && !refused && !dumb }
    }

    /// The text in this style.
    pub fn paint(self, style: Style, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        // SGR parameters, ECMA-48 section 8.3.117.
        let code = match style {
            Style::Good => "32",
            Style::Doubtful => "33",
            Style::Bad => "31",
            Style::Faint => "2",
            Style::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_plain() {
        assert_eq!(Palette::PLAIN.paint(Style::Bad, "x"), "x");
        assert_eq!(Palette { coloured: true }.paint(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}

//! Text from guests on its way to a terminal.

use std::borrow::Cow;

/// The text with its control characters made visible, so that a guest cannot move the cursor, recolour the screen or
/// type for the user. Tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Control characters, and those that change the direction of what follows them.
fn is_control(c: char) -> bool {
    c != '\t' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_not_sent() {
        assert_eq!(printable("plain \u{e4}\t."), "plain \u{e4}\t.");
        assert_eq!(printable("\x1b[2J\r\n"), "\\u{1b}[2J\\r\\n");
        assert_eq!(printable("\u{9b}2J\u{202e}"), "\\u{9b}2J\\u{202e}");
    }
}

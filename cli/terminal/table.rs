//! Tables: a header, aligned columns, two spaces between them, nothing at the end of a line.

use super::text::printable;

/// Rows of text below a header.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(header: &[&str]) -> Table {
        Table { rows: vec![header.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell becomes `-`, control characters become visible.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown =
            cells.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(cell).into_owned() });
        self.rows.push(shown.collect());
    }

    /// The lines.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a-long-name".into(), "running".into()]);
        table.row(["b\x1b".into(), String::new()]);
        assert_eq!(table.lines(), ["NAME         STATE", "a-long-name  running", "b\\u{1b}      -"]);
    }
}

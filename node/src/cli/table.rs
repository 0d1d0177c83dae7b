//! Aligned columns.

use std::fmt::Write as _;

use super::output::Colour;

/// A cell: its text, and its colour.
pub type Cell = (String, Colour);

/// A cell without a colour.
pub fn plain(text: impl Into<String>) -> Cell {
    (text.into(), Colour::Plain)
}

/// Rows below their headings, each column as wide as its widest cell.
pub fn render<const N: usize>(headings: [&str; N], rows: &[[Cell; N]], colours: bool) -> String {
    let mut text = String::new();
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].0.chars().count());
            cells.chain([headings[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let headings = headings.map(|heading| (heading.to_owned(), Colour::Faint));
    for cells in std::iter::once(&headings).chain(rows) {
        let mut out = String::new();
        for ((cell, colour), width) in cells.iter().zip(&widths) {
            // Padded before it is painted: escape codes have no width.
            let padded = format!("{cell:<width$}");
            let _ = write!(out, "{}  ", colour.paint(&padded, colours));
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

/// `name: value` lines, the values below each other.
pub fn facts(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0) + 1;
    let mut text = String::new();
    for (name, value) in lines {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<width$} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [[plain("a"), plain("long")], [plain("bcd"), plain("x")]];
        let text = render(["ONE", "T"], &rows, false);
        assert_eq!(text, "ONE  T\na    long\nbcd  x\n");
    }

    #[test]
    fn facts_stand_below_each_other() {
        let text = facts(&[("a", "1".into()), ("long", "2".into())]);
        assert_eq!(text, "a:    1\nlong: 2\n");
    }
}

//! What the commands print, and how they end.
//!
//! Everything that is a result goes through [`print`], which takes a closed standard output for the
//! end of the command (`axolotl block | head -1`), not for a fault.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Standard output was closed by its reader: the command ends quietly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("standard output is closed")]
pub struct Closed;

/// A command line that cannot be carried out as it stands; exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// How often the picture of something that takes long moves.
const TICK: Duration = Duration::from_millis(100);

/// Writes to standard output.
///
/// # Errors
/// [`Closed`], or that it cannot be written to (a full disk).
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
    }
}

/// Writes one JSON document to standard output.
///
/// # Errors
/// As [`print`].
pub fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(document)?))
}

/// Writes a line to standard error; that nobody reads it is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Options of the look of a text.
#[derive(clap::Args, Clone, Debug)]
pub struct ColourArgs {
    /// Never colour the output; it is only coloured on a terminal anyway.
    #[arg(long, env = "NO_COLOR", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_color: bool,
}

impl ColourArgs {
    /// Whether standard output takes colours.
    pub fn on(&self) -> bool {
        !self.no_color && io::stdout().is_terminal()
    }
}

/// ANSI colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// None.
    Plain,
    /// Well.
    Green,
    /// Worth a look.
    Yellow,
    /// Not well.
    Red,
    /// Beside the point.
    Faint,
}

impl Colour {
    /// `text` in this colour, if colours are on.
    pub fn paint(self, text: &str, on: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Faint => "2",
        };
        if on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A wheel that turns on standard error while something takes long; nothing outside of a terminal.
pub fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target());
    bar.set_style(style("{spinner} {msg} ({elapsed})"));
    bar.set_message(message.to_owned());
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// A bar on standard error that fills up to `length`; nothing outside of a terminal.
pub fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), target());
    bar.set_style(style("{bar:30} {pos}/{len} {msg}"));
    bar
}

fn target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this module are templates")
}

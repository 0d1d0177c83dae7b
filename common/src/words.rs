//! Errors in words.

use std::error::Error;

/// An error and its causes in one line. What was told already is not told again: many errors name
/// their cause themselves.
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Fault {
        #[error("cannot open it: {0}")]
        Named(#[source] std::fmt::Error),
        #[error("cannot open it")]
        Silent(#[source] std::fmt::Error),
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::fmt::Error.to_string();
        let words = format!("cannot open it: {cause}");
        for fault in [
            Fault::Named(std::fmt::Error),
            Fault::Silent(std::fmt::Error),
        ] {
            assert_eq!(in_words(&fault), words);
        }
    }
}

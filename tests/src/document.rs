//! Commands in documents: what is to be typed stands in fenced blocks, and a comment above a block
//! says to the tests what a reader gathers from the words around it.

/// Begins a comment for the tests.
const MARK: &str = "<!-- test: ";
/// Ends it.
const MARK_END: &str = " -->";

/// A block, or a comment without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line of the block's first line, or of the comment.
    pub line: usize,
    /// The last heading of the second level above.
    pub section: String,
    /// What the comment says, if there is one.
    pub mark: Option<String>,
    /// Language of the block, if there is one.
    pub language: Option<String>,
    /// Its text; empty without a block.
    pub text: String,
}

/// The steps of a document, in order.
pub fn steps(document: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut section = String::new();
    let mut mark: Option<(usize, String)> = None;
    let mut block: Option<Step> = None;
    for (line, number) in document.lines().zip(1..) {
        if let Some(open) = &mut block {
            if line == "```" {
                steps.extend(block.take());
            } else {
                open.text.push_str(line);
                open.text.push('\n');
            }
        } else if let Some(language) = line.strip_prefix("```") {
            block = Some(Step {
                line: number + 1,
                section: section.clone(),
                mark: mark.take().map(|(_, text)| text),
                language: Some(language.to_owned()),
                text: String::new(),
            });
        } else if let Some(text) = line.strip_prefix(MARK) {
            let text = text.trim_end_matches(MARK_END).to_owned();
            steps.extend(alone(mark.replace((number, text)), &section));
        } else if !line.is_empty() {
            steps.extend(alone(mark.take(), &section));
            if let Some(heading) = line.strip_prefix("## ") {
                section = heading.to_owned();
            }
        }
    }
    steps
}

/// A comment that no block follows.
fn alone(mark: Option<(usize, String)>, section: &str) -> Option<Step> {
    let (line, text) = mark?;
    Some(Step {
        line,
        section: section.to_owned(),
        mark: Some(text),
        language: None,
        text: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_belong_to_the_block_below() {
        let found = steps(
            "# T\n\n## One\n\n<!-- test: a -->\n```bash\nx\ny\n```\n\n<!-- test: b -->\n<!-- test: c -->\n\
             ```json\n{}\n```\n<!-- test: d -->\nwords\n## Two\n```bash\nz\n```\n",
        );
        let short: Vec<_> = found
            .iter()
            .map(|step| (step.mark.as_deref(), step.text.as_str(), &*step.section))
            .collect();
        assert_eq!(
            short,
            [
                (Some("a"), "x\ny\n", "One"),
                (Some("b"), "", "One"),
                (Some("c"), "{}\n", "One"),
                (Some("d"), "", "One"),
                (None, "z\n", "Two"),
            ]
        );
        assert_eq!(found[0].line, 7);
    }
}

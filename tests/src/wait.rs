//! Waiting: on a condition with a deadline, never for a time that is hoped to be enough.

use std::time::{Duration, Instant};

use anyhow::anyhow;

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives a value, for `deadline` at most.
///
/// `condition` fails as long as it does not hold, with what it saw.
///
/// # Errors
/// After the deadline, with what was waited for and what was seen last.
pub async fn until<T, F>(
    what: &str,
    deadline: Duration,
    condition: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    until_polling(what, deadline, POLL, condition).await
}

/// [`until`] with an interval of its own, for what is measured finely.
///
/// # Errors
/// As [`until`].
pub async fn until_polling<T, F>(
    what: &str,
    deadline: Duration,
    poll: Duration,
    mut condition: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + deadline;
    let mut seen = "nothing yet".to_owned();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => seen = format!("{error:#}"),
            Err(_) => {}
        }
        if Instant::now() >= end {
            return Err(anyhow!("waited {deadline:?} for {what}; last seen: {seen}"));
        }
        // The pause of the poll.
        tokio::time::sleep(poll).await;
    }
}

/// Lets `span` go by because the span itself is what is tested or measured: load that runs that
/// long, a fault at a random moment.
pub async fn span(span: Duration) {
    tokio::time::sleep(span).await;
}

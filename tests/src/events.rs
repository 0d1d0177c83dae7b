//! The registry's events, read as a whole.

use std::time::Duration;

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{Event, EventKind};

/// Times of events are compared within one.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Most time for the first event: there is one of the registry's own start.
const FIRST: Duration = Duration::from_secs(10);
/// A stream that gives nothing more for this long has given everything.
const SILENCE: Duration = Duration::from_millis(300);

/// Everything that `GET /events` gives at once, oldest first.
///
/// # Errors
/// When the registry does not answer, or an event cannot be read.
pub async fn read(http: &reqwest::Client, registry: &str) -> anyhow::Result<Vec<Event>> {
    let mut response = http.get(format!("{registry}/events")).send().await?;
    ensure!(
        response.status().is_success(),
        "/events: {}",
        response.status()
    );
    let mut text = Vec::new();
    let mut patience = FIRST;
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(patience, response.chunk()).await {
        text.extend_from_slice(&chunk);
        patience = SILENCE;
    }
    ensure!(!text.is_empty(), "/events gave nothing within {FIRST:?}");
    let text = String::from_utf8(text).context("events are UTF-8")?;
    // The stream goes on: what follows the last empty line is not complete.
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).with_context(|| data.to_owned()))
        .collect()
}

/// Nobody was taken out of the set while it led, by the order of events.
///
/// # Errors
/// With the event that says so.
pub fn leaders_stay(events: &[Event]) -> anyhow::Result<()> {
    let mut leader = None;
    for event in events {
        match event.kind {
            EventKind::Leader => leader = event.node.as_ref(),
            EventKind::Epoch => {
                let led =
                    leader.is_some_and(|node| event.message.contains(&format!(": {node} leaves")));
                ensure!(!led, "the leader was taken out: {}", event.message);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The time of day of an RFC 3339 time in UTC.
///
/// # Errors
/// When it is none.
pub fn time_of_day(time: &str) -> anyhow::Result<Duration> {
    let read = || {
        let clock = time.split_once('T')?.1.strip_suffix('Z')?;
        let mut parts = clock.split(':');
        let (hours, minutes) = (parts.next()?, parts.next()?);
        let seconds: f64 = parts.next()?.parse().ok()?;
        let whole = hours.parse::<u32>().ok()? * 60 + minutes.parse::<u32>().ok()?;
        Duration::try_from_secs_f64(f64::from(whole) * 60.0 + seconds).ok()
    };
    read().with_context(|| format!("{time:?} is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_read() -> anyhow::Result<()> {
        let millis = |time| anyhow::Ok(time_of_day(time)?.as_millis());
        assert_eq!(millis("2026-11-26T00:01:02.5Z")?, 62_500);
        assert_eq!(millis("2026-11-26T23:59:59Z")?, DAY.as_millis() - 1_000);
        for time in ["", "2026-11-26", "2026-11-26T00:01Z", "2026-11-26T00:01:02"] {
            assert!(time_of_day(time).is_err(), "{time}");
        }
        Ok(())
    }
}

//! A lost quorum, watched from the moment of the loss: when the first block of the next epoch came, and
//! when each step was taken, by the registry's events.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use axolotl_common::{
    Epoch, EpochRecord,
    membership::RecordKind,
    registry_api::{Event, EventKind},
};

use super::DockerCluster;
use crate::{events, wait};

/// What is looked for in the events: a name for people, the kind, words of the message, and whether
/// the last such event counts or the first.
const STEPS: [(&str, EventKind, &str, bool); 9] = [
    ("stop seen", EventKind::Stopped, "", false),
    ("silence seen", EventKind::Unhealthy, "", false),
    ("replacements started", EventKind::Spawned, "", true),
    ("registered", EventKind::Registered, "", true),
    (
        "survivors asked",
        EventKind::Recovery,
        "the survivors are asked",
        false,
    ),
    (
        "told to seal",
        EventKind::Recovery,
        "the survivors seal",
        false,
    ),
    ("sealed", EventKind::Recovery, "has sealed epoch", true),
    (
        "record signed",
        EventKind::Recovery,
        "the record is signed",
        false,
    ),
    ("in force", EventKind::Epoch, "is in force", false),
];

/// A loss that is watched.
pub struct Loss<'a> {
    cluster: &'a DockerCluster,
    begun: Instant,
    /// The same by the clock that events are told by.
    clock: Duration,
    /// The last event before.
    last: u64,
    /// The epoch that loses its quorum.
    epoch: Epoch,
}

/// The next epoch.
pub struct Found {
    /// Its record.
    pub record: EpochRecord,
    /// From the loss until its first block was seen.
    pub block_after: Duration,
}

/// As precise as the times of events, so that none lies before.
fn wall_clock() -> anyhow::Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Duration::from_millis(u64::try_from(now.as_millis())?))
}

impl<'a> Loss<'a> {
    /// Begins to watch; the loss comes now.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn begin(cluster: &'a DockerCluster) -> anyhow::Result<Self> {
        let epoch = cluster.membership().await?.epoch;
        let events = cluster.events().await?;
        Ok(Self {
            cluster,
            last: events.last().map_or(0, |event| event.id),
            epoch: epoch.context("no epoch yet")?,
            clock: wall_clock()?,
            begun: Instant::now(),
        })
    }

    /// Time since the loss.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until `witness` holds a block of the next epoch, which was recorded in this way. A block
    /// that the record itself made final does not count.
    ///
    /// # Errors
    /// After the deadline, with what the registry says.
    pub async fn next_epoch(
        &self,
        kind: RecordKind,
        witness: &str,
        deadline: Duration,
    ) -> anyhow::Result<Found> {
        let client = self.cluster.rpc(witness).await?;
        wait::until("a block of a new epoch", deadline, async || {
            let mut records = self.cluster.membership().await?.records;
            records.retain(|signed| signed.record.number > self.epoch);
            let of_kind = records.iter().find(|signed| signed.record.kind == kind);
            let Some(signed) = of_kind else {
                let said = self.cluster.status().await?.recovery;
                anyhow::bail!("no record of a {kind:?} among {records:?}: {said:?}");
            };
            let (record, head) = (signed.record.clone(), client.block_number().await?);
            ensure!(
                head > record.base_height.0,
                "{witness} is at {head}, epoch {} begins above {}",
                record.number,
                record.base_height
            );
            Ok(Found {
                record,
                block_after: self.elapsed(),
            })
        })
        .await
    }

    /// What the registry told since the loss.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn told(&self) -> anyhow::Result<Vec<Event>> {
        let mut events = self.cluster.events().await?;
        events.retain(|event| event.id > self.last);
        Ok(events)
    }

    /// When each step was taken, for people; prints what was told of the recovery too.
    ///
    /// # Errors
    /// When no event tells of a record that was signed and came into force.
    pub async fn time_line(&self) -> anyhow::Result<String> {
        let told = self.told().await?;
        let at = |event: &Event| -> anyhow::Result<f64> {
            let since = events::time_of_day(&event.time)?.as_secs_f64() - self.clock.as_secs_f64();
            Ok(since.rem_euclid(events::DAY.as_secs_f64()))
        };
        for event in &told {
            if matches!(event.kind, EventKind::Recovery | EventKind::Epoch) {
                println!("{:6.1} s {}", at(event)?, event.message);
            }
        }
        let signed = told.iter().position(|event| {
            event.kind == EventKind::Recovery && event.message.contains("the record is signed")
        });
        let signed = signed.context("no event tells of a record")?;
        let forced = |event: &&Event| event.message.contains("is in force");
        ensure!(
            told[signed..].iter().any(|event| forced(&event)),
            "no event tells that the record is in force"
        );
        let mut line = Vec::new();
        for (name, kind, words, last) in STEPS {
            let fits = |event: &&Event| event.kind == kind && event.message.contains(words);
            let found = match last {
                true => told[..signed].iter().rev().find(fits),
                false => told.iter().find(fits),
            };
            if let Some(event) = found {
                line.push(format!("{name} {:.1}", at(event)?));
            }
        }
        Ok(line.join(", "))
    }
}

//! Follows the engine's events, and finds it again after a restart or a hang.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use bollard::{models::EventMessage, query_parameters::EventsOptions};
use futures::StreamExt;
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep},
};

use super::{
    Inner, Life,
    container::{Labels, NETWORK, NODE},
    engine::EngineError,
    lives::{ACTIONS, Told},
};
use crate::runtime::{Change, Found, Instance};
use axolotl_common::registry_api::RuntimeInfo;

/// Pause before the engine is tried again: doubles from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// Events are asked for, and this long after everything is looked at: what happened before the engine
/// heard of the wish is in the list, what happens after is told.
const SETTLED: Duration = Duration::from_millis(250);
/// How often the engine is asked whether it still answers: a hanging one closes no connection.
const PROBE: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);
/// After a break the events of so long before it are asked for again, in nanoseconds: they may come late.
const OVERLAP: i64 = 5_000_000_000;
/// Events that are remembered at the most.
const MAX_TAKEN: usize = 4_096;

/// Tells of changes until nobody listens.
pub(super) async fn run(inner: Arc<Inner>, changes: mpsc::Sender<Change>) {
    let mut watcher = Watcher {
        inner,
        changes: changes.clone(),
        first: 0,
        last: 0,
        taken: Taken::default(),
        pause: FIRST_PAUSE,
    };
    let follow = async {
        loop {
            let error = watcher.follow().await;
            let pause = watcher.pause;
            tracing::debug!(%error, "the Docker engine is asked again in {pause:?}");
            sleep(pause).await;
            watcher.pause = LAST_PAUSE.min(pause * 2);
        }
    };
    tokio::select! {
        () = changes.closed() => {}
        () = follow => {}
    }
}

struct Watcher {
    inner: Arc<Inner>,
    changes: mpsc::Sender<Change>,
    /// When the first event happened that was taken in, in nanoseconds since 1970. What was before it is of
    /// no interest: it may be of another chain under the same names.
    first: i64,
    /// The same of the newest event.
    last: i64,
    taken: Taken,
    pause: Duration,
}

/// Events that were taken in lately: after a break of the connection they come again. Those of containers
/// that end at the same moment come in any order, so that the time alone does not tell.
#[derive(Debug, Default)]
struct Taken(BTreeSet<(i64, String, String)>);

impl Taken {
    /// Whether an event is new; it is not the next time.
    fn is_new(&mut self, at: i64, id: &str, action: &str) -> bool {
        let new = self.0.insert((at, id.to_owned(), action.to_owned()));
        let newest = self.0.last().map_or(at, |(at, ..)| *at);
        let outdated = |(at, ..): &(i64, String, String)| newest.saturating_sub(*at) > 2 * OVERLAP;
        while self.0.len() > MAX_TAKEN || self.0.first().is_some_and(outdated) {
            self.0.pop_first();
        }
        new
    }
}

/// From when on events are asked for again after a break, given the first and the newest that were taken in.
fn missed_since(first: i64, last: i64) -> Option<i64> {
    (last > 0).then(|| first.max(last - OVERLAP))
}

impl Watcher {
    /// Follows one connection until it breaks.
    async fn follow(&mut self) -> EngineError {
        match self.follow_one().await {
            Ok(()) => EngineError::Unreachable("the engine closed its events".to_owned()),
            Err(error) => error,
        }
    }

    async fn follow_one(&mut self) -> Result<(), EngineError> {
        self.probe().await?;
        let client = self.inner.engine.client().await?;
        let filters = [
            ("type", vec!["container".to_owned()]),
            (
                "label",
                vec![
                    format!("{NETWORK}={}", self.inner.options.network),
                    NODE.to_owned(),
                ],
            ),
            ("event", ACTIONS.map(str::to_owned).into()),
        ];
        let options = EventsOptions {
            // After a short break of the connection the engine still knows what was missed.
            since: missed_since(self.first, self.last).map(|since| {
                let (s, ns) = (since / 1_000_000_000, since % 1_000_000_000);
                format!("{s}.{ns:09}")
            }),
            filters: Some(filters.map(|(k, v)| (k.to_owned(), v)).into()),
            ..EventsOptions::default()
        };
        let mut events = pin!(client.events(Some(options)));
        let mut settled = pin!(sleep(SETTLED));
        let mut looked = false;
        let mut probe = interval_at(Instant::now() + PROBE, PROBE);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event).await,
                    Some(Err(error)) => {
                        // One that is not understood must not come again and again.
                        let error = self.inner.engine.explain(error);
                        if matches!(error, EngineError::Strange(_)) {
                            self.last = 0;
                        }
                        return Err(error);
                    }
                    None => return Ok(()),
                },
                () = &mut settled, if !looked => {
                    looked = true;
                    self.pause = FIRST_PAUSE;
                    self.tell(Change::Look).await;
                }
                _ = probe.tick() => self.probe().await?,
            }
        }
    }

    async fn probe(&self) -> Result<(), EngineError> {
        let engine = &self.inner.engine;
        engine
            .call_within(PROBE_PATIENCE, |docker| async move { docker.ping().await })
            .await
            .map(drop)
    }

    async fn tell(&self, change: Change) {
        // Nobody listens any more when the registry is ending.
        let _ = self.changes.send(change).await;
    }

    async fn take(&mut self, event: EventMessage) {
        let (at, actor) = (
            event.time_nano.unwrap_or(0),
            event.actor.unwrap_or_default(),
        );
        let attributes = actor.attributes.unwrap_or_default();
        let labels = Labels::new(&attributes, &self.inner.options.store_id);
        let (Some(id), Some(action), Some(node)) = (actor.id, event.action, labels.node()) else {
            return;
        };
        if !self.taken.is_new(at, &id, &action) {
            return;
        }
        if self.first == 0 {
            self.first = at;
        }
        self.last = self.last.max(at);
        let told = self.inner.lives().take(&id, &action, &attributes, at);
        tracing::debug!(%node, action, container = id, ?told, "an event of the engine");
        let change = match told {
            None => return,
            Some(Told::Started) => {
                let name = attributes.get("name").cloned().unwrap_or_default();
                Change::Started(self.started(&id).await.unwrap_or_else(|| Found {
                    instance: Instance {
                        node,
                        generation: labels.generation(),
                        info: RuntimeInfo::Docker { container: name },
                        token: id,
                        public_rpc_url: None,
                    },
                    origin: labels.origin(),
                    ended: None,
                }))
            }
            Some(Told::Ended(exit)) => Change::Ended {
                node,
                token: id,
                exit,
            },
            Some(Told::Removed) => Change::Removed { node, token: id },
        };
        self.tell(change).await;
    }

    /// A container that was started, with its ports, which events do not tell.
    async fn started(&self, id: &str) -> Option<Found> {
        let containers = self.inner.containers(None).await.ok()?;
        let container = containers.into_iter().find(|c| c.id == id)?;
        // One that has ended again is told to have started first.
        (container.life == Life::Runs).then(|| container.found(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_the_first_event_is_not_asked_for() {
        assert_eq!(missed_since(0, 0), None);
        let first = 7 * OVERLAP;
        for (last, since) in [(0, first), (1, first), (OVERLAP + 1, first + 1)] {
            assert_eq!(missed_since(first, first + last), Some(since), "{last}");
        }
    }

    #[test]
    fn an_event_counts_once_in_whatever_order_it_comes() {
        let mut taken = Taken::default();
        // Three that are stopped at once, the first one told last; then a break, and all come again.
        let ends = [(20, "b"), (30, "c"), (10, "a")];
        let at = |tick: i64| OVERLAP + tick;
        for new in [true, false] {
            for (tick, id) in ends {
                assert_eq!(taken.is_new(at(tick), id, "die"), new, "{id}");
            }
        }
        assert!(taken.is_new(at(10), "a", "stop"));
        assert!(taken.is_new(at(10) + 3 * OVERLAP, "a", "start"));
        assert_eq!(taken.0.len(), 1, "what is long past is forgotten");
    }
}

//! The owner of cluster state and store.
//!
//! All verbs go through one lock: ask the pure rules, write down, sync, apply, show. They run on
//! the blocking pool, so that a caller who hangs up does not cut one in half. Afterwards the state
//! of every node is compared with what was told last, and changes become events.

mod instances;
mod membership;
mod nodes;
mod observed;
mod operator;
mod recovery;
mod streams;
#[cfg(test)]
mod tests;
mod warnings;

pub use nodes::Signed;
pub use streams::{ControlStream, Sent};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axolotl_common::{
    KeyPair, NodeId, PublicKey, Signature,
    genesis::{GenesisDocument, GenesisError, Timing},
    recovery::StartId,
    registry_api::{
        DiscoverResponse, Event, EventKind, MembershipResponse, NodeState, StatusResponse,
        SymptomCode,
    },
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::Token,
    cluster::{
        Now, Rules,
        chain::Chain,
        instance::Managed,
        recovery::Recovery,
        registration::Refusal,
        state::State,
        surveyor::Verdicts,
        view::{Told, rfc3339},
    },
    metrics::Metrics,
    store::{StartRecord, Store, StoreError},
};

/// Orders and events of one start of the registry: their numbers are `start << 32 | n`, so that
/// they grow over restarts without a write for each.
const NUMBERS_PER_START_BITS: u32 = 32;

/// Decisions that `/status` shows.
const DECISIONS_SHOWN: usize = 10;

/// What the registry needs to know at its start.
#[derive(Debug)]
pub struct Setup {
    /// Settings of the rules.
    pub rules: Rules,
    /// Timing of a genesis formed here.
    pub timing: Timing,
    /// Heartbeats are asked for this often.
    pub heartbeat_interval: Duration,
    /// The authority key.
    pub authority: KeyPair,
    /// Shown by nodes whose key is not known.
    pub join_token: Token,
    /// Shown by operators.
    pub admin_token: Token,
}

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The caller's fault, or bad timing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A process whose key another one has.
    #[error("{refusal}")]
    OtherProcess {
        /// In words.
        refusal: Refusal,
        /// The authority's signature.
        proof: Box<Signature>,
    },
    /// The store failed: the registry ends.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The genesis that was built is none: a fault of this program.
    #[error("the genesis that was built: {0}")]
    Genesis(#[from] GenesisError),
    /// The registry is ending.
    #[error("the registry is ending")]
    Ending,
}

pub(crate) struct Core {
    pub(crate) state: State,
    pub(crate) store: Store,
    pub(crate) recovery: Recovery,
    /// What the log said last of a recovery, without times.
    told: Option<String>,
    start: StartRecord,
    next_number: u64,
    next_stream: u64,
    runtime_fault: Option<String>,
    /// Whether the runtime was asked once what it has.
    observed: bool,
    /// Highest number of a node that the store had given when this process began.
    given: u64,
    /// Instances that the last look found to have ended, of which no change told yet.
    suspects: BTreeSet<NodeId>,
    /// Lines of the last plan.
    lines: Vec<String>,
}

struct Inner {
    core: Mutex<Core>,
    setup: Setup,
    started: Instant,
    started_ms: u64,
    metrics: Metrics,
    wake: Notify,
    /// A node answered something about a recovery, or an operator spoke.
    answered: Notify,
    deadline: watch::Sender<Option<Now>>,
    newest_event: watch::Sender<u64>,
    peers: watch::Sender<u64>,
    /// Keys of the nodes on record, for those who need not wait for the lock.
    known: RwLock<BTreeSet<PublicKey>>,
    ending: CancellationToken,
    fatal: OnceLock<String>,
}

/// A handle on the registry; clones are cheap and share it.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

impl Registry {
    /// Reads the store, writes down this start, and goes on forming the genesis where an earlier
    /// start was cut off.
    ///
    /// # Errors
    /// When the store fails.
    pub fn open(mut store: Store, setup: Setup) -> Result<Self, CallError> {
        let started_ms = wall_ms();
        let start = store.begin_start(StartId::generate(), started_ms)?;
        if store.authority()?.is_none() {
            store.set_authority(&setup.authority.public())?;
        }
        let mut state = State::new(setup.rules.clone());
        for record in store.nodes()? {
            state.apply_record(record, None);
        }
        for record in store.managed()? {
            state
                .managed
                .insert(record.label.clone(), Managed::new(record));
        }
        state.foreign = store.foreign()?;
        if let Some(genesis) = store.genesis()? {
            let document = GenesisDocument::from_value(genesis.document)?;
            let mut chain = Chain::new(document, genesis.record);
            for record in store.records()? {
                chain.add(record);
            }
            let epoch = store.epoch()?;
            chain.enter(epoch.in_force);
            chain.pending = epoch
                .pending
                .and_then(|number| chain.records.get(&number).cloned());
            state.chain = Some(chain);
        }
        state.highest_number = store.highest_number()?;
        let setting = state.rules.target_nodes;
        state.target = match store.target()? {
            Some(stored) if stored.setting == setting => stored
                .target
                .clamp(state.rules.min_nodes, state.rules.max_nodes),
            _ => setting,
        };
        let given = state.max_number();
        let core = Core {
            state,
            recovery: Recovery::new(store.recovery()?),
            told: None,
            store,
            next_number: (start.counter << NUMBERS_PER_START_BITS) + 1,
            start,
            next_stream: 1,
            runtime_fault: None,
            observed: false,
            given,
            suspects: BTreeSet::new(),
            lines: Vec::new(),
        };
        let registry = Self(Arc::new(Inner {
            core: Mutex::new(core),
            setup,
            started: Instant::now(),
            started_ms,
            metrics: Metrics::new(),
            wake: Notify::new(),
            answered: Notify::new(),
            deadline: watch::Sender::new(None),
            newest_event: watch::Sender::new(0),
            peers: watch::Sender::new(0),
            known: RwLock::default(),
            ending: CancellationToken::new(),
            fatal: OnceLock::new(),
        }));
        registry.blocking(|turn| {
            if let Some(warning) = turn.trust_warning() {
                tracing::warn!("{warning}");
            }
            let message = turn.started_message();
            turn.event(EventKind::Started, None, message)?;
            turn.form_if_ready()
        })?;
        Ok(registry)
    }

    /// Time since the start.
    pub fn now(&self) -> Now {
        self.0.started.elapsed()
    }

    /// Wall clock of the start, milliseconds since 1970.
    pub fn started_ms(&self) -> u64 {
        self.0.started_ms
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The key that signs orders and epoch records.
    pub fn authority_key(&self) -> axolotl_common::PublicKey {
        self.0.setup.authority.public()
    }

    /// The join token.
    pub fn join_token(&self) -> &Token {
        &self.0.setup.join_token
    }

    /// The admin token.
    pub fn admin_token(&self) -> &Token {
        &self.0.setup.admin_token
    }

    /// Whether a node with this key is on record.
    pub fn knows(&self, key: &PublicKey) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.contains(key)
    }

    /// Cancelled when the registry ends, for whatever reason.
    pub fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// Why the registry must end, if it must.
    pub fn fatal(&self) -> Option<&str> {
        self.0.fatal.get().map(String::as_str)
    }

    /// Resolves when the reconciler should look: something was asked for or reported.
    pub async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// Lets the reconciler look.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Runs a verb under the lock, then tells what changed.
    fn blocking<R>(
        &self,
        verb: impl FnOnce(&mut Turn<'_>) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let mut core = self.0.core.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.fatal.get().is_some() {
            return Err(CallError::Ending);
        }
        let mut turn = Turn {
            core: &mut core,
            inner: &self.0,
            now: self.now(),
        };
        let result = verb(&mut turn);
        turn.publish_keys();
        let announced = turn.announce();
        let result = result.and_then(|value| announced.map(|()| value));
        if let Err(error @ (CallError::Store(_) | CallError::Genesis(_))) = &result {
            tracing::error!(%error, "the registry ends: what it says must be durable first");
            // Only the first reason counts.
            let _ = self.0.fatal.set(error.to_string());
            self.0.ending.cancel();
        }
        result
    }

    async fn call<R: Send + 'static>(
        &self,
        verb: impl FnOnce(&mut Turn<'_>) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        let registry = self.clone();
        let task = tokio::task::spawn_blocking(move || registry.blocking(verb));
        task.await.unwrap_or(Err(CallError::Ending))
    }

    /// `GET /status`.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn status(&self) -> Result<StatusResponse, CallError> {
        self.call(|turn| turn.status()).await
    }

    /// `GET /discover`.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn discover(&self) -> Result<DiscoverResponse, CallError> {
        self.call(|turn| Ok(turn.core.state.discover(turn.now)))
            .await
    }

    /// `GET /membership`.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn membership(&self) -> Result<MembershipResponse, CallError> {
        self.call(|turn| {
            let authority = turn.inner.setup.authority.public();
            let recovery = turn.recovery_status()?;
            Ok(turn.core.state.membership(authority, recovery))
        })
        .await
    }

    /// The genesis document, once formed.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn genesis(&self) -> Result<Option<serde_json::Value>, CallError> {
        self.call(|turn| {
            let chain = turn.core.state.chain.as_ref();
            Ok(chain.map(|chain| chain.document.value().clone()))
        })
        .await
    }

    /// What keeps the registry from doing its job; empty when nothing does.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn unready(&self) -> Result<Vec<String>, CallError> {
        if self.0.ending.is_cancelled() {
            return Ok(vec!["the registry is ending".to_owned()]);
        }
        self.call(|turn| Ok(turn.obstacles())).await
    }

    /// Waits for deadlines of heartbeats and tells of those that passed, until the registry ends.
    pub async fn watch_deadlines(self) {
        let mut deadline = self.0.deadline.subscribe();
        loop {
            let next = *deadline.borrow_and_update();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until((self.0.started + at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.0.ending.cancelled() => return,
                changed = deadline.changed() => if changed.is_err() { return },
                () = due => {
                    // An error is fatal and has been noted; the loop ends with the registry.
                    let _ = self.call(|_| Ok(())).await;
                }
            }
        }
    }

    /// Brings everything to disk; the last thing before the end.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn close(&self) -> Result<(), CallError> {
        self.0.ending.cancel();
        self.call(|turn| Ok(turn.core.store.sync()?)).await
    }
}

/// One verb under the lock.
pub(crate) struct Turn<'a> {
    pub(crate) core: &'a mut Core,
    inner: &'a Inner,
    pub(crate) now: Now,
}

impl Turn<'_> {
    fn started_message(&self) -> String {
        let state = &self.core.state;
        let nodes = state.nodes.len();
        match (&state.chain, &state.foreign) {
            (Some(chain), _) => format!(
                "registry started (start {}), chain {} with {nodes} nodes on record",
                self.core.start.counter,
                chain.document.chain().id
            ),
            (None, Some(hash)) => format!(
                "registry started (start {}), its store is empty but a chain with genesis {hash} \
                 exists: restore the store, or adopt",
                self.core.start.counter
            ),
            (None, None) => format!(
                "registry started (start {}), forming the genesis of {} nodes, {nodes} on record",
                self.core.start.counter, state.rules.genesis_nodes
            ),
        }
    }

    fn next_number(&mut self) -> u64 {
        let number = self.core.next_number;
        self.core.next_number += 1;
        number
    }

    /// Writes an event down, logs it, and tells the streams.
    pub(crate) fn event(
        &mut self,
        kind: EventKind,
        node: Option<&NodeId>,
        message: String,
    ) -> Result<(), CallError> {
        let event = Event {
            id: self.next_number(),
            time: rfc3339(wall_ms()),
            kind,
            node: node.cloned(),
            message,
        };
        match kind {
            EventKind::Unhealthy
            | EventKind::Failure
            | EventKind::Recovery
            | EventKind::Warning => {
                tracing::warn!(event = kind.as_str(), "{}", event.message);
            }
            _ => tracing::info!(event = kind.as_str(), "{}", event.message),
        }
        self.inner.metrics.event(kind);
        self.core.store.put_event(&event)?;
        self.inner.newest_event.send_replace(event.id);
        Ok(())
    }

    /// Shows new keys to [`Registry::knows`]. Keys are never forgotten.
    fn publish_keys(&self) {
        let keys = &self.core.state.keys;
        let known = &self.inner.known;
        let shown = known.read().unwrap_or_else(PoisonError::into_inner).len();
        if shown != keys.len() {
            let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
            known.extend(keys.keys().copied());
        }
    }

    /// Compares the state of each node with what was told last; sets the next deadline.
    fn announce(&mut self) -> Result<(), CallError> {
        let verdicts = self.core.state.verdicts(self.now);
        let mut counts = BTreeMap::<NodeState, usize>::new();
        for (label, verdict) in &verdicts {
            *counts.entry(verdict.state).or_default() += 1;
            self.note_health(label, verdict.state == NodeState::Healthy);
            let told = self
                .core
                .state
                .announced
                .insert(label.clone(), verdict.state);
            if told == Some(verdict.state) {
                continue;
            }
            let why = verdict.detail.as_deref().unwrap_or("it reports in time");
            match verdict.state {
                NodeState::Healthy => {
                    self.event(
                        EventKind::Healthy,
                        Some(label),
                        format!("{label} is healthy"),
                    )?;
                }
                NodeState::Failed | NodeState::Unreachable if told.is_some() => {
                    let word = if verdict.state == NodeState::Failed {
                        "failed"
                    } else {
                        "unreachable"
                    };
                    let message = format!("{label} is {word}: {why}");
                    self.event(EventKind::Unhealthy, Some(label), message)?;
                }
                state => tracing::info!(node = %label, ?state, "{label}: {why}"),
            }
        }
        self.inner.metrics.nodes(&counts);
        self.announce_silences(&verdicts)?;
        let leader = self.core.state.find_leader(self.now);
        if leader != self.core.state.leader {
            self.core.state.leader = leader.clone();
            if let Some(label) = leader {
                self.event(EventKind::Leader, Some(&label), format!("{label} leads"))?;
            }
        }
        let next = verdicts.values().filter_map(|v| v.deadline).min();
        self.inner.deadline.send_if_modified(|deadline| {
            let changed = *deadline != next;
            *deadline = next;
            changed
        });
        Ok(())
    }

    /// Tells of members whose votes ceased to arrive, or arrive again.
    fn announce_silences(&mut self, verdicts: &Verdicts) -> Result<(), CallError> {
        for change in self.core.state.review_votes(self.now, verdicts) {
            let label = &change.label;
            match &change.silence {
                Some(silence) => {
                    let text = silence.symptom(self.now).text;
                    let message = format!("{label} is {}: {text}", SymptomCode::NotVoting);
                    self.event(EventKind::Unhealthy, Some(label), message)?;
                }
                None => {
                    let message = format!("{label} votes again");
                    self.event(EventKind::Healthy, Some(label), message)?;
                }
            }
        }
        Ok(())
    }

    fn status(&mut self) -> Result<StatusResponse, CallError> {
        let told = Told {
            warnings: self.warnings(),
            plan: self.plan().shown(),
            decisions: self.core.store.newest_decisions(DECISIONS_SHOWN)?,
            recovery: self.recovery_status()?,
        };
        Ok(self.core.state.status(self.now, told))
    }

    fn note_health(&mut self, label: &NodeId, healthy: bool) {
        let now = self.now;
        let state = &mut self.core.state;
        let managed = state.nodes.get(label).and_then(|node| {
            let managed = state.managed_of(&node.record)?;
            Some(managed.record.label.clone())
        });
        if let Some(managed) = managed.and_then(|label| state.managed.get_mut(&label)) {
            managed.backoff.healthy(healthy, now);
        }
    }
}

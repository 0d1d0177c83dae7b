//! Keeps the node known to the registry: registers, sends heartbeats, registers again when the
//! registry forgot it.

use std::{sync::Arc, time::Duration};

use axolotl_common::{
    Epoch, PublicKey,
    genesis::GenesisDocument,
    registry_api::{Heartbeat, RegisterRequest, RegisterResponse},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{CallError, RegistryClient};

/// Patience after the first failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Longest patience; it doubles up to here.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// While the genesis forms, the registry is asked this often.
const FORMING_INTERVAL: Duration = Duration::from_millis(500);
/// A refusal that no retry will change is tried again this seldom.
const REFUSED_INTERVAL: Duration = Duration::from_secs(30);
/// A process whose key another one has gives up after this time. One that is gone is taken for alive for 10 s at
/// most, and only while its connection was not seen to end.
const OTHER_PROCESS_PATIENCE: Duration = Duration::from_secs(15);
/// Shortest pause between heartbeats, whatever the registry asks for and however much changes.
const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Longest pause between heartbeats, whatever the registry asks for.
const MAX_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Growing patience with jitter, so that nodes do not all come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    seed: u64,
}

impl Backoff {
    /// Fresh; the key makes the jitter of each node its own.
    pub fn new(key: PublicKey) -> Self {
        let mut seed = [0; 8];
        seed.copy_from_slice(&key.0[..8]);
        Self {
            failures: 0,
            seed: u64::from_le_bytes(seed) | 1,
        }
    }

    /// How long to wait now: half of the patience, and a random part of the other half.
    #[allow(
        clippy::should_implement_trait,
        reason = "it never ends, and is not iterated over"
    )]
    pub fn next(&mut self) -> Duration {
        let patience = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // xorshift64 (Marsaglia 2003): jitter needs no better randomness.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let half_ms = patience.as_millis() as u64 / 2;
        Duration::from_millis(half_ms + self.seed % (half_ms + 1))
    }

    /// Something succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A registration after which the chain is known.
#[derive(Clone, Debug)]
pub struct RegisterOutcome {
    /// The registry's answer.
    pub response: RegisterResponse,
    /// The genesis.
    pub genesis: GenesisDocument,
}

/// Registers again and again until the genesis is known.
///
/// `progress` hears what is waited for, each text once in a row. `None` when `shutdown` came first.
///
/// # Errors
/// A refusal that no retry will change.
pub async fn register_until_genesis(
    client: &RegistryClient,
    mut request: RegisterRequest,
    mut progress: impl FnMut(&str) + Send,
    shutdown: &CancellationToken,
) -> Result<Option<RegisterOutcome>, CallError> {
    let mut backoff = Backoff::new(client.public_key());
    let mut told = String::new();
    loop {
        let answer = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            answer = client.register(&request) => answer,
        };
        let (text, patience) = match answer {
            Ok(response) => {
                backoff.reset();
                // The label is the node's from now on.
                request.node_id = Some(response.node_id.clone());
                if let Some(value) = &response.genesis {
                    let genesis = GenesisDocument::from_value(value.clone())
                        .map_err(|e| CallError::Unreadable(e.to_string()))?;
                    return Ok(Some(RegisterOutcome { response, genesis }));
                }
                let text = format!("{}: {}", response.node_id, response.message);
                (text, FORMING_INTERVAL)
            }
            Err(error) if !error.retryable() => return Err(error),
            Err(error) => (error.to_string(), backoff.next()),
        };
        if text != told {
            progress(&text);
            told = text;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            () = sleep(patience) => {}
        }
    }
}

/// Whose word it is that another process has this node's key.
#[derive(Clone, Copy, Debug)]
pub struct Authority {
    /// The authority key that the genesis names.
    pub key: PublicKey,
    /// Chain id (EIP-155).
    pub chain_id: u64,
}

impl Authority {
    /// Of a chain, if its genesis names one.
    pub fn of(genesis: &GenesisDocument) -> Option<Self> {
        let key = genesis.axolotl().authority_key?;
        let chain_id = genesis.chain().id.0;
        Some(Self { key, chain_id })
    }

    /// Whether `error` is its word about the process that registers with `request`.
    fn refuses(&self, caller: PublicKey, request: &RegisterRequest, error: &CallError) -> bool {
        let process = &request.process;
        matches!(error, CallError::Refused(problem)
            if problem.refuses_process(&self.key, self.chain_id, &caller, process))
    }
}

/// Registers until no other process has this node's key, before the node does anything in its name.
///
/// `progress` hears what is waited for. `false` when `shutdown` came first. Until the authority says that
/// there is another one, nothing else that is said, and no silence, is a reason to wait: a node that knows its
/// chain needs no registry. After it, only being let in ends the wait.
///
/// # Errors
/// The refusal, after [`OTHER_PROCESS_PATIENCE`].
pub async fn register_until_alone(
    client: &RegistryClient,
    authority: &Authority,
    request: &RegisterRequest,
    progress: impl Fn(&CallError) + Send,
    shutdown: &CancellationToken,
) -> Result<bool, CallError> {
    let mut backoff = Backoff::new(client.public_key());
    let begun = Instant::now();
    let mut refusal: Option<CallError> = None;
    loop {
        let answer = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(false),
            answer = client.register(request) => answer,
        };
        match answer {
            Ok(_) => return Ok(true),
            Err(error) if authority.refuses(client.public_key(), request, &error) => {
                progress(&error);
                refusal = Some(error);
            }
            Err(_) => {}
        }
        match &refusal {
            None => return Ok(true),
            Some(error) if begun.elapsed() >= OTHER_PROCESS_PATIENCE => return Err(error.clone()),
            Some(_) => {}
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(false),
            () = sleep(backoff.next()) => {}
        }
    }
}

/// What the registry told.
#[derive(Clone, Debug)]
pub enum PresenceUpdate {
    /// The node is registered, for the first time or again.
    Registered(Box<RegisterResponse>),
    /// The registry's newest epoch is above the node's: it missed a record.
    NewerEpoch(Epoch),
    /// The registry refuses the node for a reason that no retry will change.
    Refused(CallError),
}

/// Keeps a node present that knows its chain.
pub struct Presence<R, H> {
    /// Calls the registry.
    pub client: RegistryClient,
    /// Who may say that another process has this node's key.
    pub authority: Option<Authority>,
    /// Makes the registration: asked at each one.
    pub request: R,
    /// Makes a heartbeat with this `seq`: asked at each one.
    pub heartbeat: H,
    /// Hears what the registry told. What does not fit is dropped: each update is only a hint.
    pub updates: mpsc::Sender<PresenceUpdate>,
    /// How often heartbeats are sent; the registry's wish wins where there is none.
    pub interval: Option<Duration>,
    /// Asks for a heartbeat before its time: something changed that the registry acts on.
    pub prompt: Arc<Notify>,
    /// Turns true once the registry has taken this process.
    pub admitted: watch::Sender<bool>,
}

impl<R, H> Presence<R, H>
where
    R: FnMut() -> RegisterRequest + Send,
    H: FnMut(u64) -> Heartbeat + Send,
{
    /// Runs until `shutdown`. Failures are retried for ever: the node does not need the registry.
    ///
    /// # Errors
    /// The refusal, when another process has had this node's key for [`OTHER_PROCESS_PATIENCE`]: of two,
    /// one must end.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), CallError> {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            error = self.work() => Err(error),
        }
    }

    async fn work(&mut self) -> CallError {
        let mut backoff = Backoff::new(self.client.public_key());
        let mut seq = 0;
        loop {
            match self.register(&mut backoff).await {
                Ok(interval) => self.beat(&mut backoff, &mut seq, interval).await,
                Err(error) => return error,
            }
        }
    }

    /// Registers; returns the pause between heartbeats.
    async fn register(&mut self, backoff: &mut Backoff) -> Result<Duration, CallError> {
        let mut warned = false;
        let mut refused_since = None;
        loop {
            let request = (self.request)();
            let (authority, key) = (self.authority, self.client.public_key());
            let is_refused = |error: &CallError| {
                authority.is_some_and(|authority| authority.refuses(key, &request, error))
            };
            match self.client.register(&request).await {
                Ok(response) => {
                    backoff.reset();
                    let wished = Duration::from_millis(response.heartbeat_interval_ms)
                        .clamp(MIN_HEARTBEAT_INTERVAL, MAX_HEARTBEAT_INTERVAL);
                    tracing::info!(node = %response.node_id, "registered: {}", response.message);
                    self.admitted.send_replace(true);
                    self.tell(PresenceUpdate::Registered(Box::new(response)));
                    return Ok(self.interval.unwrap_or(wished));
                }
                Err(error) if is_refused(&error) => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= OTHER_PROCESS_PATIENCE {
                        return Err(error);
                    }
                    tracing::warn!(%error, "the registry does not take this node: {error}");
                    sleep(backoff.next()).await;
                }
                Err(error) if error.retryable() => {
                    refused_since = None;
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(%error, "not registered, tried again; blocks go on");
                    }
                    sleep(backoff.next()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry does not take this node: {error}");
                    self.tell(PresenceUpdate::Refused(error));
                    sleep(REFUSED_INTERVAL).await;
                }
            }
        }
    }

    /// Sends heartbeats until the node must register again.
    async fn beat(&mut self, backoff: &mut Backoff, seq: &mut u64, interval: Duration) {
        let mut warned = false;
        loop {
            *seq += 1;
            let beat = (self.heartbeat)(*seq);
            match self.client.heartbeat(&beat).await {
                Ok(health) => {
                    if std::mem::take(&mut warned) {
                        tracing::info!("the registry hears this node again");
                    }
                    backoff.reset();
                    if health.epoch > beat.epoch {
                        self.tell(PresenceUpdate::NewerEpoch(health.epoch));
                    }
                    let pause = pause_before(interval, health.heartbeat_interval_ms);
                    sleep(pause.min(MIN_HEARTBEAT_INTERVAL)).await;
                    tokio::select! {
                        () = sleep(pause.saturating_sub(MIN_HEARTBEAT_INTERVAL)) => {}
                        () = self.prompt.notified() => {}
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(%error, "a heartbeat failed, tried again; blocks go on");
                    }
                    sleep(backoff.next().min(interval)).await;
                    if error.unknown_node() || !error.retryable() {
                        return;
                    }
                }
            }
        }
    }

    fn tell(&self, update: PresenceUpdate) {
        if self.updates.try_send(update).is_err() {
            tracing::debug!("a word of the registry was dropped: nobody had time for it");
        }
    }
}

/// The pause before the next heartbeat: the node's own, or a shorter one that the registry asks for.
fn pause_before(own: Duration, wished_ms: u64) -> Duration {
    match wished_ms {
        0 => own,
        wished => own.min(Duration::from_millis(wished).max(MIN_HEARTBEAT_INTERVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_may_ask_for_heartbeats_sooner_but_not_later_nor_without_end() {
        let ms = Duration::from_millis;
        let table = [
            (ms(5_000), 0, ms(5_000)),
            (ms(5_000), 200, ms(200)),
            (ms(5_000), 1, MIN_HEARTBEAT_INTERVAL),
            (ms(5_000), 60_000, ms(5_000)),
            (ms(20), 200, ms(20)),
        ];
        for (own, wished, expected) in table {
            assert_eq!(pause_before(own, wished), expected, "{own:?}, {wished}");
        }
    }

    #[test]
    fn patience_grows_to_its_bound_and_differs_between_nodes() {
        let waits = |seed| {
            let mut backoff = Backoff::new(PublicKey([seed; 32]));
            (0..12).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        let (one, two) = (waits(1), waits(2));
        assert!(one[0] <= BACKOFF_FIRST, "{one:?}");
        assert!(
            one[11] >= BACKOFF_MAX / 2 && one[11] <= BACKOFF_MAX,
            "{one:?}"
        );
        assert_ne!(one, two);
    }
}

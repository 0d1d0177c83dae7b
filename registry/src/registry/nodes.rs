//! Verbs of nodes: register, heartbeat, report, and the forming of the genesis.

use axolotl_common::{
    NodeId, PublicKey,
    genesis::{
        AxolotlGenesis, DEFAULT_BASE_FEE_FLOOR, DEFAULT_LEADER_TERM_BLOCKS,
        DEFAULT_MAX_BLOCK_BYTES, GenesisDocument, dev_genesis,
    },
    limits::DEFAULT_MAX_LOG_BYTES,
    registry_api::{
        ConsensusFailure, EventKind, HealthResponse, Heartbeat, RegisterRequest, RegisterResponse,
        refuse_process,
    },
};

use super::{CallError, Registry, Turn, wall_ms};
use crate::{
    cluster::{
        MAX_REPORTED_PEERS, MAX_TEXT_LEN,
        chain::Chain,
        forming,
        registration::{Caller, Refusal},
    },
    store::StoredGenesis,
};

/// Who signed a request, and its counter. The signature was checked.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// Who.
    pub key: PublicKey,
    /// Counter of the request.
    pub counter: u64,
}

impl Registry {
    /// `POST /register`. When this answers, the registration is durable.
    ///
    /// # Errors
    /// When it is refused, or the store fails.
    pub async fn register(
        &self,
        signed: Signed,
        token: bool,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, CallError> {
        self.call(move |turn| turn.register(signed, token, &request))
            .await
    }

    /// `POST /health`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn heartbeat(
        &self,
        signed: Signed,
        beat: Heartbeat,
    ) -> Result<HealthResponse, CallError> {
        self.call(move |turn| {
            turn.core
                .state
                .count(turn.now, &signed.key, signed.counter)?;
            let label = beat.node_id.clone();
            turn.core
                .state
                .heartbeat(turn.now, wall_ms(), &signed.key, beat)?;
            turn.inner.metrics.heartbeat();
            turn.follow_epochs()?;
            // What it says may be what the plan waits for.
            turn.inner.wake.notify_one();
            turn.health(&label, true)
        })
        .await
    }

    /// `GET /health`: what is known; counts as a heartbeat when signed by the node, or while
    /// registration is open.
    ///
    /// # Errors
    /// When the node is not known, or the signer may not speak for it.
    pub async fn bare_heartbeat(
        &self,
        signed: Option<Signed>,
        label: NodeId,
    ) -> Result<HealthResponse, CallError> {
        self.call(move |turn| {
            if let Some(signed) = signed {
                turn.core
                    .state
                    .count(turn.now, &signed.key, signed.counter)?;
                turn.core.state.speaks_for(&signed.key, &label)?;
            }
            let counted = signed.is_some() || turn.core.state.rules.open_registration;
            if counted {
                turn.core.state.touch(turn.now, wall_ms(), &label);
            }
            turn.health(&label, counted)
        })
        .await
    }

    /// `POST /consensus-failure`; `signed` is `None` when an operator asks. Returns what is done.
    ///
    /// # Errors
    /// When the signer may not speak for the reporter.
    pub async fn consensus_failure(
        &self,
        signed: Option<Signed>,
        report: ConsensusFailure,
    ) -> Result<String, CallError> {
        let answer = self
            .call(move |turn| {
                if let Some(signed) = signed {
                    turn.core
                        .state
                        .count(turn.now, &signed.key, signed.counter)?;
                    let label = report.node_id.as_ref().ok_or(Refusal::Invalid {
                        field: "node_id",
                        why: "missing".to_owned(),
                    })?;
                    turn.core.state.speaks_for(&signed.key, label)?;
                }
                turn.failure(&report)
            })
            .await?;
        self.wake();
        Ok(answer)
    }
}

impl Turn<'_> {
    fn health(&self, label: &NodeId, counted: bool) -> Result<HealthResponse, CallError> {
        let state = &self.core.state;
        let health = state.health(self.now, label, counted);
        Ok(health.ok_or(Refusal::UnknownKey)?)
    }

    fn register(
        &mut self,
        signed: Signed,
        token: bool,
        request: &RegisterRequest,
    ) -> Result<RegisterResponse, CallError> {
        // Before its counter, which belongs to the process that has the key.
        if let Some(refusal) = self
            .core
            .state
            .other_process(self.now, &signed.key, request)
        {
            return Err(self.refuse_process(refusal, &signed.key, request));
        }
        // The counter belongs to the incarnation: the first call of a new one starts it afresh.
        let known = self.core.state.by_key(&signed.key);
        let fresh = known.is_some_and(|node| request.incarnation > node.record.incarnation);
        if !fresh {
            self.core
                .state
                .count(self.now, &signed.key, signed.counter)?;
        }
        let trusted = known_or_admitted(self, &signed.key, token);
        let caller = Caller {
            key: signed.key,
            counter: signed.counter,
            token,
            wall_ms: wall_ms(),
        };
        let registered = match self.core.state.register(self.now, caller, request) {
            Ok(registered) => registered,
            Err(refusal) => {
                if let Refusal::StoreLost(hash) = refusal {
                    self.store_lost(hash, trusted, &signed.key)?;
                }
                return Err(refusal.into());
            }
        };
        let new_start = known_incarnation(self, &signed.key) != Some(request.incarnation);
        let mut records = vec![&registered.record];
        records.extend(registered.superseded.as_ref());
        if registered.news {
            self.core.store.put_nodes(&records)?;
        }
        let label = registered.record.label.clone();
        if let Some(superseded) = registered.superseded {
            self.core.state.apply_record(superseded, None);
        }
        self.core
            .state
            .apply_record(registered.record, Some(self.now));
        if new_start {
            let message = format!(
                "{label} registered (start {}): {}",
                request.incarnation, registered.message
            );
            self.event(EventKind::Registered, Some(&label), message)?;
        }
        self.form_if_ready()?;
        if registered.news {
            self.inner.peers.send_modify(|version| *version += 1);
        }
        self.register_response(&label, registered.message)
    }

    /// The refusal of a process whose key another one has, signed.
    fn refuse_process(
        &mut self,
        refusal: Refusal,
        key: &PublicKey,
        request: &RegisterRequest,
    ) -> CallError {
        let node = self.core.state.by_key_mut(key);
        if !node.is_some_and(|node| node.live.refusals.take(self.now)) {
            return Refusal::TooMany.into();
        }
        let Some(chain) = &self.core.state.chain else {
            return refusal.into();
        };
        let (authority, chain_id) = (&self.inner.setup.authority, chain.document.chain().id.0);
        CallError::OtherProcess {
            proof: Box::new(refuse_process(authority, chain_id, key, &request.process)),
            refusal,
        }
    }

    fn register_response(
        &self,
        label: &NodeId,
        message: String,
    ) -> Result<RegisterResponse, CallError> {
        let state = &self.core.state;
        let node = state.nodes.get(label).ok_or(Refusal::UnknownKey)?;
        let waiting_for = forming::waiting_for(state);
        let message = match waiting_for {
            0 => message,
            1 => format!("{message}; waiting for 1 more node"),
            k => format!("{message}; waiting for {k} more nodes"),
        };
        Ok(RegisterResponse {
            node_id: label.clone(),
            role: state.role(&node.record),
            genesis: state
                .chain
                .as_ref()
                .map(|chain| chain.document.value().clone()),
            waiting_for,
            message,
            authority_key: self.inner.setup.authority.public(),
            heartbeat_interval_ms: self.inner.setup.heartbeat_interval.as_millis() as u64,
        })
    }

    /// A node showed a genesis although this store has none: none is ever formed here. Durable when
    /// the node was admitted; else until the next start, so that a stranger cannot spoil the store.
    fn store_lost(
        &mut self,
        hash: axolotl_common::Hash,
        trusted: bool,
        key: &PublicKey,
    ) -> Result<(), CallError> {
        if trusted && self.core.store.foreign()?.is_none() {
            self.core.store.set_foreign(&hash)?;
        }
        if self.core.state.foreign.is_none() {
            self.core.state.foreign = Some(hash);
            let message = format!(
                "{} shows genesis {hash}, but the store of this registry is empty: restore the \
                 store, or adopt (axolotl-registry adopt --help); no second genesis will be formed",
                key.peer_id()
            );
            self.event(EventKind::Warning, None, message)?;
        }
        Ok(())
    }

    /// Builds the genesis once enough nodes have registered: built, synced, then shown.
    pub(super) fn form_if_ready(&mut self) -> Result<(), CallError> {
        let Some(validators) = forming::validators(&self.core.state) else {
            return Ok(());
        };
        let names: Vec<String> = validators.iter().map(|m| m.node_id.to_string()).collect();
        let axolotl = AxolotlGenesis {
            validators,
            quorum: axolotl_common::QuorumRule::default(),
            authority_key: Some(self.inner.setup.authority.public()),
            offline_key: None,
            timing: self.inner.setup.timing.clone(),
            leader_term_blocks: DEFAULT_LEADER_TERM_BLOCKS,
            max_block_bytes: DEFAULT_MAX_BLOCK_BYTES,
            max_log_bytes: Some(DEFAULT_MAX_LOG_BYTES),
            base_fee_floor: DEFAULT_BASE_FEE_FLOOR,
        };
        let document = GenesisDocument::from_value(dev_genesis(&axolotl, wall_ms() / 1_000))?;
        let chain = document.chain();
        let record = document.epoch().sign(&chain, &self.inner.setup.authority);
        self.core.store.set_genesis(&StoredGenesis {
            document: document.value().clone(),
            record: record.clone(),
        })?;
        self.core.state.chain = Some(Chain::new(document, record));
        let message = format!(
            "genesis {} of chain {} is formed: {}; it prefunds the ten well-known development \
             accounts, whose keys everybody knows",
            chain.genesis,
            chain.id,
            names.join(", ")
        );
        self.event(EventKind::Genesis, None, message)?;
        self.inner.peers.send_modify(|version| *version += 1);
        Ok(())
    }

    fn failure(&mut self, report: &ConsensusFailure) -> Result<String, CallError> {
        let invalid = |field, why: String| Refusal::Invalid { field, why };
        if report.reason.len() > MAX_TEXT_LEN {
            return Err(invalid("reason", format!("at most {MAX_TEXT_LEN} bytes")).into());
        }
        if report.peers.len() > MAX_REPORTED_PEERS {
            return Err(invalid("peers", format!("at most {MAX_REPORTED_PEERS}")).into());
        }
        let who = match &report.node_id {
            Some(label) => label.as_str(),
            None => "the operator",
        };
        let message = format!(
            "{who} reports that height {} does not come about (epoch {}, round {}, last commit {} \
             ms ago, {} peers): {:?}",
            report.height,
            report.epoch,
            report.round,
            report.last_commit_age_ms,
            report.peers.len(),
            report.reason
        );
        self.event(EventKind::Failure, report.node_id.as_ref(), message)?;
        let state = &self.core.state;
        let Some(chain) = &state.chain else {
            return Ok("noted; there is no chain yet".to_owned());
        };
        let (n, quorum) = (chain.validators.len(), chain.validators.quorum());
        let survey = state.survey(self.now, None);
        // Everybody is asked at once: what was heard last may be seconds old.
        self.core.recovery.report(report.height, self.now);
        self.probe();
        let voting = survey.voting();
        let missing: Vec<&str> = survey
            .seats
            .iter()
            .filter(|seat| !seat.condition.votes())
            .map(|seat| seat.member.node_id.as_str())
            .collect();
        let mut answer = format!(
            "every node is asked how it fares; as last heard, {voting} of {n} validators vote and \
             {quorum} make a quorum"
        );
        if !missing.is_empty() {
            answer.push_str(&format!(
                "; missing: {}. Those that exited are started again, and failed ones are replaced",
                missing.join(", ")
            ));
        }
        Ok(answer)
    }
}

fn known_or_admitted(turn: &Turn<'_>, key: &PublicKey, token: bool) -> bool {
    let state = &turn.core.state;
    token || state.rules.open_registration || state.by_key(key).is_some()
}

fn known_incarnation(turn: &Turn<'_>, key: &PublicKey) -> Option<u64> {
    let node = turn.core.state.by_key(key)?;
    // A registry that was restarted tells again of nodes that come back to it.
    node.live.heard.map(|_| node.record.incarnation)
}

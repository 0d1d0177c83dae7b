//! Who may register, and under which label.
//!
//! | key | label | answer |
//! |---|---|---|
//! | known, same volume, incarnation not lower | any | welcome back, under its own label |
//! | known, other volume or lower incarnation | any | refused |
//! | known, while another process lives, or was started no less often | any | refused, signed |
//! | unknown, without the join token | any | refused, unless registration is open |
//! | unknown | none wished | `node{max+1}` |
//! | unknown | free | as wished |
//! | unknown | of another key that is alive | refused |
//! | unknown | of another key that is silent: a wiped volume | `node{max+1}`, and the old one is out |

use std::time::Duration;

use axolotl_common::{
    Hash, NodeId, PublicKey,
    registry_api::{NodeState, RegisterRequest, Role},
};

use super::{
    MAX_ADDRESS_LEN, MAX_ADDRESSES, MAX_NODE_NUMBER, MAX_NODES_KNOWN, MAX_VERSION_LEN, Now,
    state::{NodeRecord, State},
};

/// A process whose stream is open counts as alive for so long after its last heartbeat. Shorter than a
/// refused one waits, so that a restart is let in.
const TAKEN_FOR_ALIVE: Duration = Duration::from_secs(10);

/// Why a node's call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A value does not fit.
    #[error("{field}: {why}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The key is new and came without the right join token.
    #[error(
        "this key is not known here, and the join token is missing or wrong; \
         nodes read it from JOIN_TOKEN_FILE"
    )]
    JoinToken,
    /// The key is new, and the call is not a registration.
    #[error("this key is not known here; register first")]
    UnknownKey,
    /// A call in another node's name.
    #[error("the signing key may not speak for {claimed}{}", known_as_text(.known_as))]
    NotYours {
        /// The label in the call.
        claimed: NodeId,
        /// The label of the key.
        known_as: Option<NodeId>,
    },
    /// Seen before, or overtaken.
    #[error("{what} {got} is not above {last}, the last one")]
    Replay {
        /// Which number.
        what: &'static str,
        /// Its value.
        got: u64,
        /// The last value.
        last: u64,
    },
    /// Another incarnation than the registered one.
    #[error(
        "incarnation {got} is not {known}, the one that is registered; a lower one means that \
         the data directory was rolled back, a higher one must register first"
    )]
    Incarnation {
        /// Value in the call.
        got: u64,
        /// Value on record.
        known: u64,
    },
    /// Another process of the key was started as often, or more often.
    #[error(
        "{label} runs, or ran, as another process, which is at start {known} of its data directory; this one \
         is at start {got}, so its directory was rolled back or is a copy: of two, stop one and wipe its \
         directory"
    )]
    OtherStart {
        /// The key's label.
        label: NodeId,
        /// Value in the call.
        got: u64,
        /// Value on record.
        known: u64,
    },
    /// The key moved to another data directory.
    #[error("this key belongs to another volume; a new data directory needs a new key")]
    OtherVolume,
    /// The volume is another node's.
    #[error("this volume is {0}'s; a copied data directory must not run twice")]
    VolumeTaken(NodeId),
    /// The label belongs to a living node.
    #[error("{0} is another key, and it is alive; choose another NODE_ID, or none")]
    LabelTaken(NodeId),
    /// Two nodes want to lead the genesis.
    #[error("{0} claims to be the leader already; set IS_LEADER on one node only")]
    TwoLeaders(NodeId),
    /// A genesis was shown although this store has none.
    #[error(
        "a chain with genesis {0} exists, but the store of this registry is empty: restore the \
         store, or adopt (axolotl-registry adopt); no second genesis will be formed"
    )]
    StoreLost(Hash),
    /// The node follows another chain.
    #[error("genesis {got} is not {known}, the genesis of this registry's chain")]
    OtherChain {
        /// Shown by the node.
        got: Hash,
        /// Of this chain.
        known: Hash,
    },
    /// Too many nodes on record.
    #[error("{MAX_NODES_KNOWN} nodes are on record, no more are taken")]
    Full,
    /// A wanted number outside of the limits.
    #[error("target_nodes {target} is outside of MIN_NODES {min} to MAX_NODES {max}")]
    Limits {
        /// What was asked for.
        target: usize,
        /// Floor.
        min: usize,
        /// Ceiling.
        max: usize,
    },
    /// There is no chain yet whose validators could be changed.
    #[error("the genesis is not formed yet; GET /status says who is awaited")]
    StillForming,
    /// A label that nobody has.
    #[error("there is no node {0}; GET /status lists all")]
    NoSuchNode(NodeId),
    /// Another process with this key lives.
    #[error(
        "{0} is alive in another process, which has this key and this volume too; a copied data directory must not \
         run twice. If that process is gone, try again in some seconds"
    )]
    RunsTwice(NodeId),
    /// An operator's word about a recovery is not taken.
    #[error(transparent)]
    Recovery(#[from] super::recovery::Refused),
    /// The change would leave no quorum, or cannot be finalised.
    #[error("{0}")]
    Quorum(String),
    /// Too many calls.
    #[error("too many calls; wait a second")]
    TooMany,
}

fn known_as_text(label: &Option<NodeId>) -> String {
    label
        .as_ref()
        .map(|label| format!("; it is {label}'s"))
        .unwrap_or_default()
}

/// A registration that may be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The node's new record.
    pub record: NodeRecord,
    /// The record of the key whose place it takes.
    pub superseded: Option<NodeRecord>,
    /// For the answer.
    pub message: String,
    /// Whether something that others should hear of changed.
    pub news: bool,
}

/// What the caller knows of a registration besides its body.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Who signed.
    pub key: PublicKey,
    /// Request counter.
    pub counter: u64,
    /// Whether it showed the join token.
    pub token: bool,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
}

impl State {
    /// Judges a registration whose signature holds, of the only process that has the key, see
    /// [`Self::other_process`]; changes nothing.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn register(
        &self,
        now: Now,
        caller: Caller,
        request: &RegisterRequest,
    ) -> Result<Registered, Refusal> {
        check_request(request)?;
        let known = self.by_key(&caller.key);
        self.check_chain(request)?;
        if known.is_none() && !caller.token && !self.rules.open_registration {
            return Err(Refusal::JoinToken);
        }
        let mut record = NodeRecord {
            label: NodeId::numbered(0),
            number: 0,
            public_key: caller.key,
            volume_id: request.volume_id,
            incarnation: request.incarnation,
            process: request.process,
            counter: caller.counter,
            is_leader: request.is_leader,
            observer: request.role == Role::Observer,
            addresses: request.addresses.clone(),
            http_url: request.http_url.clone(),
            rpc_url: request.rpc_url.clone(),
            version: request.version.clone(),
            registered_ms: caller.wall_ms,
            superseded_by: None,
            runs_as: None,
            leaving: None,
        };
        let registered = match known {
            Some(node) => {
                let old = &node.record;
                if old.volume_id != request.volume_id {
                    return Err(Refusal::OtherVolume);
                }
                if request.incarnation < old.incarnation {
                    return Err(Refusal::Incarnation {
                        got: request.incarnation,
                        known: old.incarnation,
                    });
                }
                record.label = old.label.clone();
                record.number = old.number;
                record.runs_as = old.runs_as.clone();
                // One that was drained and is started again comes back.
                if request.incarnation == old.incarnation {
                    record.leaving = old.leaving;
                }
                let wished = request.node_id.as_ref();
                let message = match wished.filter(|wished| **wished != old.label) {
                    Some(wished) => format!("welcome back as {}, not {wished}", old.label),
                    None => "welcome back".to_owned(),
                };
                let news = NodeRecord {
                    counter: old.counter,
                    registered_ms: old.registered_ms,
                    ..record.clone()
                } != *old;
                Registered {
                    record,
                    superseded: None,
                    message,
                    news,
                }
            }
            None => self.admit(now, record, request)?,
        };
        self.check_leader(&registered)?;
        Ok(registered)
    }

    /// Why a process must not act under its key: another one has it.
    pub fn other_process(
        &self,
        now: Now,
        key: &PublicKey,
        request: &RegisterRequest,
    ) -> Option<Refusal> {
        let node = self.by_key(key)?;
        let old = &node.record;
        if request.volume_id != old.volume_id || request.process == old.process {
            return None;
        }
        // Each start of a directory is counted before it registers.
        if request.incarnation <= old.incarnation {
            return Some(Refusal::OtherStart {
                label: old.label.clone(),
                got: request.incarnation,
                known: old.incarnation,
            });
        }
        // A process that ends closes its stream; one whose machine is gone is silent, too.
        let spoke = |at: Now| now.saturating_sub(at) < TAKEN_FOR_ALIVE;
        let lives =
            node.live.stream != 0 && node.live.beat.as_ref().is_some_and(|(at, _)| spoke(*at));
        lives.then(|| Refusal::RunsTwice(old.label.clone()))
    }

    /// Whether the chain that the node knows is this registry's.
    fn check_chain(&self, request: &RegisterRequest) -> Result<(), Refusal> {
        let known = self.chain.as_ref().map(|chain| chain.document.hash());
        match (request.genesis_hash, known) {
            (Some(got), None) => Err(Refusal::StoreLost(got)),
            (Some(got), Some(known)) if got != known => Err(Refusal::OtherChain { got, known }),
            _ => Ok(()),
        }
    }

    /// Only one node may claim to be first in the genesis; once it is formed, the claim says
    /// nothing.
    fn check_leader(&self, registered: &Registered) -> Result<(), Refusal> {
        if self.chain.is_some() || !registered.record.is_leader {
            return Ok(());
        }
        let out = registered.superseded.as_ref().map(|old| old.public_key);
        let other = self.nodes.values().map(|node| &node.record).find(|other| {
            other.is_leader
                && other.superseded_by.is_none()
                && other.public_key != registered.record.public_key
                && Some(other.public_key) != out
        });
        match other {
            Some(other) => Err(Refusal::TwoLeaders(other.label.clone())),
            None => Ok(()),
        }
    }

    /// Finds the label of a new key.
    fn admit(
        &self,
        now: Now,
        mut record: NodeRecord,
        request: &RegisterRequest,
    ) -> Result<Registered, Refusal> {
        if self.nodes.len() >= MAX_NODES_KNOWN {
            return Err(Refusal::Full);
        }
        let volume = |node: &&super::state::Node| node.record.volume_id == request.volume_id;
        if let Some(node) = self.nodes.values().find(volume) {
            return Err(Refusal::VolumeTaken(node.record.label.clone()));
        }
        let next = self.max_number() + 1;
        let by_number = |number| {
            let taken = |node: &super::state::Node| node.record.number == number;
            self.nodes.values().any(taken)
        };
        let assign = |record: &mut NodeRecord| {
            record.label = NodeId::numbered(next);
            record.number = next;
        };
        let mut superseded = None;
        let message;
        match &request.node_id {
            None => {
                assign(&mut record);
                message = format!("welcome, you are {}", record.label);
            }
            Some(wished) => match self.nodes.get(wished) {
                Some(old) if self.lives(now, wished) && old.record.superseded_by.is_none() => {
                    return Err(Refusal::LabelTaken(wished.clone()));
                }
                Some(old) => {
                    assign(&mut record);
                    if old.record.superseded_by.is_none() {
                        superseded = Some(NodeRecord {
                            superseded_by: Some(record.label.clone()),
                            ..old.record.clone()
                        });
                    }
                    record.runs_as = self.managed.contains_key(wished).then(|| wished.clone());
                    message = format!(
                        "{wished} was another key; with this data directory you are {}",
                        record.label
                    );
                }
                None if wished.number().is_some_and(by_number) => {
                    assign(&mut record);
                    message = format!("the number of {wished} is taken, you are {}", record.label);
                }
                None => {
                    record.label = wished.clone();
                    record.number = wished.number().unwrap_or(next);
                    message = format!("welcome, {wished}");
                }
            },
        }
        if record.number > MAX_NODE_NUMBER {
            return Err(Refusal::Invalid {
                field: "node_id",
                why: format!("the number is above {MAX_NODE_NUMBER}"),
            });
        }
        Ok(Registered {
            record,
            superseded,
            message,
            news: true,
        })
    }

    /// Whether a node is heard, or reached by its peers.
    fn lives(&self, now: Now, label: &NodeId) -> bool {
        self.verdicts(now).get(label).is_some_and(|verdict| {
            // Not heard since the registry's own start: perhaps alive, unless this registry runs it,
            // for then the caller is what runs now.
            let perhaps = self.nodes.get(label).is_some_and(|node| {
                node.live.heard.is_some() || self.managed_of(&node.record).is_none()
            });
            match verdict.state {
                NodeState::Healthy | NodeState::Syncing | NodeState::Unreachable => true,
                NodeState::Starting => perhaps,
                _ => false,
            }
        })
    }
}

fn check_request(request: &RegisterRequest) -> Result<(), Refusal> {
    let invalid = |field, why: String| Err(Refusal::Invalid { field, why });
    if !matches!(request.role, Role::Validator | Role::Observer) {
        return invalid("role", "a node asks to be `validator` or `observer`".into());
    }
    if request.role == Role::Observer && request.is_leader {
        return invalid("is_leader", "an observer does not lead".into());
    }
    if request.incarnation == 0 {
        return invalid("incarnation", "counts starts, from 1".into());
    }
    if request.addresses.is_empty() || request.addresses.len() > MAX_ADDRESSES {
        return invalid("addresses", format!("expected 1 to {MAX_ADDRESSES}"));
    }
    for address in &request.addresses {
        if address.len() > MAX_ADDRESS_LEN || parse_address(address).is_none() {
            return invalid(
                "addresses",
                format!(
                    "{address:?} is not of the form /ip4/…/tcp/…, /ip6/…/tcp/… or /dns4/…/tcp/…"
                ),
            );
        }
    }
    for (field, url) in [
        ("http_url", &request.http_url),
        ("rpc_url", &request.rpc_url),
    ] {
        let fits = url.strip_prefix("http://").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
        });
        if !fits || url.len() > MAX_ADDRESS_LEN {
            return invalid(field, "expected http://host:port".into());
        }
    }
    let version = &request.version;
    if version.len() > MAX_VERSION_LEN || !version.bytes().all(|b| (32..127).contains(&b)) {
        return invalid(
            "version",
            format!("at most {MAX_VERSION_LEN} plain characters"),
        );
    }
    Ok(())
}

/// Host and port of a libp2p TCP address without `/p2p/…`.
pub fn parse_address(address: &str) -> Option<(String, u16)> {
    let mut parts = address.split('/');
    let ("", kind, host, "tcp", port, None) = (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next(),
    ) else {
        return None;
    };
    let host_fits = match kind {
        "ip4" => host.parse::<std::net::Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<std::net::Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
        }
        _ => false,
    };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    host_fits.then(|| (host.to_owned(), port))
}

//! What runs on a connection, and with which settings.

use std::{collections::HashSet, num::NonZeroU8, time::Duration};

use axolotl_common::ChainRef;
use hickory_resolver::{config::ResolverConfig, config::ResolverOpts, system_conf};
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, allow_block_list, connection_limits, gossipsub, identify,
    identity, kad, metrics::Registry, noise, ping, request_response, swarm::NetworkBehaviour, tcp,
    yamux,
};
use sha2::{Digest, Sha256};

use super::{
    NetworkError,
    codec::{
        Incoming, LimitedCodec, SyncRequest, SyncResponse, TransactionsRequest,
        TransactionsResponse, WireStatus,
    },
    guard::Guarded,
    limits::{
        GOSSIP_DUPLICATE_TIME, GOSSIP_FRAME_SLACK_BYTES, GOSSIP_HEARTBEAT, GOSSIP_QUEUE_PER_PEER,
        GOSSIP_SEND_TIMEOUT, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER,
        MAX_CONSENSUS_OVERHEAD_BYTES, MAX_MESSAGES_PER_FRAME, MAX_NEGOTIATING_STREAMS,
        MAX_PENDING_INCOMING, MAX_PENDING_OUTGOING, MAX_STATUS_BYTES, MAX_STATUS_STREAMS,
        MAX_SYNC_REQUEST_BYTES, MAX_SYNC_RESPONSE_BYTES, MAX_SYNC_STREAMS,
        MAX_TRANSACTIONS_MESSAGE_BYTES, MAX_TRANSACTIONS_STREAMS, PING_INTERVAL, PING_TIMEOUT,
        STATUS_TIMEOUT, SYNC_STREAM_TIMEOUT, TRANSACTIONS_TIMEOUT,
    },
};

/// Gossip as we use it: only our own topics, no compression.
pub(crate) type Gossip =
    gossipsub::Behaviour<gossipsub::IdentityTransform, gossipsub::WhitelistSubscriptionFilter>;
type Exchange<Request, Response> = request_response::Behaviour<LimitedCodec<Request, Response>>;

/// The behaviours of a node. The first two refuse connections, so they come first.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) allowed: allow_block_list::Behaviour<allow_block_list::AllowedPeers>,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) gossip: Guarded<Gossip>,
    pub(crate) status: Exchange<WireStatus, WireStatus>,
    pub(crate) sync: Exchange<SyncRequest, SyncResponse>,
    pub(crate) transactions: Exchange<TransactionsRequest, TransactionsResponse>,
    pub(crate) identify: identify::Behaviour,
    pub(crate) kad: kad::Behaviour<kad::store::MemoryStore>,
    pub(crate) ping: ping::Behaviour,
}

/// The gossip topics of one chain.
#[derive(Clone, Debug)]
pub(crate) struct Topics {
    pub(crate) consensus: gossipsub::IdentTopic,
    pub(crate) transactions: gossipsub::IdentTopic,
    pub(crate) records: gossipsub::IdentTopic,
}

impl Topics {
    pub(crate) fn new(chain: &ChainRef) -> Self {
        let base = chain_label(chain);
        Self {
            consensus: gossipsub::IdentTopic::new(format!("{base}/consensus")),
            transactions: gossipsub::IdentTopic::new(format!("{base}/tx")),
            records: gossipsub::IdentTopic::new(format!("{base}/record")),
        }
    }
}

/// `axolotl/<chain id>/<first 8 digits of the genesis hash>`: begins the topics, and is the protocol
/// version that peers tell each other.
pub(crate) fn chain_label(chain: &ChainRef) -> String {
    format!(
        "axolotl/{}/{}",
        chain.id,
        hex::encode(&chain.genesis.0[..4])
    )
}

/// Longest consensus message of a chain with this block limit.
pub(crate) fn max_consensus_bytes(max_block_bytes: usize) -> usize {
    max_block_bytes + MAX_CONSENSUS_OVERHEAD_BYTES
}

/// Messages are known by topic and content: without signatures libp2p would give all the same id.
fn message_id(message: &gossipsub::Message) -> gossipsub::MessageId {
    let mut hash = Sha256::new();
    hash.update(message.topic.as_str());
    hash.update([0]);
    hash.update(&message.data);
    gossipsub::MessageId::from(hash.finalize()[..20].to_vec())
}

fn gossip(topics: &Topics, max_block_bytes: usize) -> Result<Gossip, NetworkError> {
    // Own messages go to every peer at once (flood), so that in a full mesh no message needs a
    // second hop. The mesh only carries messages on to peers that the author does not reach; it is
    // kept thin because each of its links costs one more copy of everything.
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id)
        .flood_publish(true)
        .mesh_n_low(2)
        .mesh_n(3)
        .mesh_n_high(4)
        .mesh_outbound_min(1)
        .gossip_lazy(3)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .history_length(4)
        .history_gossip(3)
        .prune_backoff(Duration::from_secs(5))
        .unsubscribe_backoff(Duration::from_secs(1))
        .duplicate_cache_time(GOSSIP_DUPLICATE_TIME)
        .max_transmit_size(max_consensus_bytes(max_block_bytes) + GOSSIP_FRAME_SLACK_BYTES)
        .max_publish_messages(MAX_MESSAGES_PER_FRAME)
        .connection_handler_queue_len(GOSSIP_QUEUE_PER_PEER)
        .publish_queue_duration(GOSSIP_SEND_TIMEOUT)
        .build()
        .map_err(|error| NetworkError::Setup(error.to_string()))?;
    let all = [&topics.consensus, &topics.transactions, &topics.records];
    let ours = HashSet::from(all.map(gossipsub::IdentTopic::hash));
    let mut gossip = Gossip::new_with_subscription_filter(
        gossipsub::MessageAuthenticity::Anonymous,
        config,
        gossipsub::WhitelistSubscriptionFilter(ours),
    )
    .map_err(|error| NetworkError::Setup(error.to_owned()))?;
    for topic in all {
        gossip
            .subscribe(topic)
            .map_err(|error| NetworkError::Setup(error.to_string()))?;
    }
    Ok(gossip)
}

fn exchange<Request, Response>(
    name: &'static str,
    max_request_bytes: usize,
    max_response_bytes: usize,
    timeout: Duration,
    max_streams: usize,
) -> Exchange<Request, Response>
where
    LimitedCodec<Request, Response>: request_response::Codec<
            Protocol = StreamProtocol,
            Request = Incoming<Request>,
            Response = Response,
        > + Clone
        + Send
        + 'static,
{
    request_response::Behaviour::with_codec(
        LimitedCodec::new(max_request_bytes, max_response_bytes),
        [(
            StreamProtocol::new(name),
            request_response::ProtocolSupport::Full,
        )],
        request_response::Config::default()
            .with_request_timeout(timeout)
            .with_max_concurrent_streams(max_streams),
    )
}

/// Kademlia, used only to learn addresses of peers that are let in anyway: it stores nothing for
/// others, and takes addresses into its table only from us.
fn kademlia(local: libp2p::PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(StreamProtocol::new("/axolotl/kad/1"));
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_query_timeout(Duration::from_secs(10))
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(120)))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let mut kad = kad::Behaviour::with_config(local, kad::store::MemoryStore::new(local), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// Names are looked up anew for each dial: a container that came back has another address.
fn resolver() -> (ResolverConfig, ResolverOpts) {
    let (config, mut options) = system_conf::read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "no usable resolver configuration; only literal addresses and hosts-file names can be dialled");
        (
            ResolverConfig::from_parts(None, Vec::new(), Vec::new()),
            ResolverOpts::default(),
        )
    });
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    options.timeout = Duration::from_secs(2);
    (config, options)
}

/// The swarm, listening nowhere yet.
pub(crate) fn swarm(
    key: identity::Keypair,
    chain: &ChainRef,
    topics: &Topics,
    max_block_bytes: usize,
    agent: &str,
    hide_listen_addresses: bool,
    metrics: &mut Registry,
) -> Result<Swarm<Behaviour>, NetworkError> {
    let setup = |error: &dyn std::fmt::Display| NetworkError::Setup(error.to_string());
    let local = key.public().to_peer_id();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
        .with_max_established(Some(MAX_CONNECTIONS))
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING));
    let behaviour = Behaviour {
        allowed: allow_block_list::Behaviour::default(),
        limits: connection_limits::Behaviour::new(limits),
        gossip: Guarded::new(gossip(topics, max_block_bytes)?),
        status: exchange(
            "/axolotl/status/1",
            MAX_STATUS_BYTES,
            MAX_STATUS_BYTES,
            STATUS_TIMEOUT,
            MAX_STATUS_STREAMS,
        ),
        sync: exchange(
            "/axolotl/sync/1",
            MAX_SYNC_REQUEST_BYTES,
            MAX_SYNC_RESPONSE_BYTES,
            SYNC_STREAM_TIMEOUT,
            MAX_SYNC_STREAMS,
        ),
        transactions: exchange(
            "/axolotl/tx/1",
            MAX_TRANSACTIONS_MESSAGE_BYTES,
            64,
            TRANSACTIONS_TIMEOUT,
            MAX_TRANSACTIONS_STREAMS,
        ),
        identify: identify::Behaviour::new(
            identify::Config::new(chain_label(chain), key.public())
                .with_agent_version(agent.to_owned())
                .with_push_listen_addr_updates(true)
                .with_hide_listen_addrs(hide_listen_addresses)
                .with_cache_size(0),
        ),
        kad: kademlia(local),
        ping: ping::Behaviour::new(
            ping::Config::new()
                .with_interval(PING_INTERVAL)
                .with_timeout(PING_TIMEOUT),
        ),
    };
    let (resolver_config, resolver_options) = resolver();
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .map_err(|error| setup(&error))?
        .with_dns_config(resolver_config, resolver_options)
        .with_bandwidth_metrics(metrics)
        .with_behaviour(|_| behaviour)
        .map_err(|error| setup(&error))?
        .with_swarm_config(|config| {
            // Connections are for keeps: peers are few and known. Ping ends dead ones.
            config
                .with_idle_connection_timeout(Duration::from_secs(365 * 24 * 3_600))
                .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
                .with_dial_concurrency_factor(NonZeroU8::MIN.saturating_add(7))
                .with_per_connection_event_buffer_size(64)
        })
        .with_connection_timeout(Duration::from_secs(5))
        .build();
    Ok(swarm)
}

#[cfg(test)]
mod tests {
    use axolotl_common::{ChainId, Hash};

    use super::*;

    #[test]
    fn topics_name_the_chain() {
        let topics = Topics::new(&ChainRef {
            id: ChainId(1337),
            genesis: Hash([0xab; 32]),
        });
        assert_eq!(
            topics.consensus.hash().as_str(),
            "axolotl/1337/abababab/consensus"
        );
        assert_eq!(
            topics.transactions.hash().as_str(),
            "axolotl/1337/abababab/tx"
        );
        assert_eq!(
            topics.records.hash().as_str(),
            "axolotl/1337/abababab/record"
        );
    }

    #[test]
    fn messages_differ_by_topic_and_content() {
        let id = |topic: &str, data: &[u8]| {
            message_id(&gossipsub::Message {
                source: None,
                data: data.to_vec(),
                sequence_number: None,
                topic: gossipsub::TopicHash::from_raw(topic),
            })
        };
        assert_eq!(id("a", b"1"), id("a", b"1"));
        assert_ne!(id("a", b"1"), id("a", b"2"));
        assert_ne!(id("a", b"1"), id("b", b"1"));
    }
}

//! Peers that do wrong: nothing they send ends a node, and it costs them their connection.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify, noise, ping, request_response as rr,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

use super::{
    super::{
        behaviour::{Topics, chain_label},
        codec::WireStatus,
        identity,
    },
    *,
};

/// Sends and reads whatever bytes it likes.
#[derive(Clone, Default)]
struct Raw;

impl rr::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T>(&mut self, name: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        self.read_request(name, io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        b: Vec<u8>,
    ) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        io.write_all(&b).await
    }

    async fn write_response<T>(
        &mut self,
        n: &StreamProtocol,
        io: &mut T,
        b: Vec<u8>,
    ) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        self.write_request(n, io, b).await
    }
}

#[derive(NetworkBehaviour)]
struct RogueBehaviour {
    gossip: gossipsub::Behaviour,
    status: rr::Behaviour<Raw>,
    sync: rr::Behaviour<Raw>,
    frames: rr::Behaviour<Raw>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// What a rogue does besides answering statuses as it should.
#[derive(Clone)]
enum Deed {
    /// Answers sync requests with these bytes.
    Answer(Vec<u8>),
    /// Sends these bytes as status requests.
    Ask(Vec<u8>),
    /// Opens gossip streams and writes these bytes.
    Frame(Vec<u8>),
    /// Gossips such messages, each different, on the topic of consensus or transactions.
    Gossip { consensus: bool, bytes: usize },
    /// Gossips such messages, each different, on the topic of records.
    Record(usize),
}

fn rogue_swarm(seed: u8) -> Swarm<RogueBehaviour> {
    let raw = |name, support| {
        let protocol = [(StreamProtocol::new(name), support)];
        rr::Behaviour::with_codec(Raw, protocol, rr::Config::default())
    };
    let topics = Topics::new(&chain(1));
    SwarmBuilder::with_existing_identity(identity::keypair(&key(seed)))
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| {
            let config = gossipsub::ConfigBuilder::default()
                .validation_mode(gossipsub::ValidationMode::Anonymous)
                .max_transmit_size(64 << 20)
                .message_id_fn(|m| {
                    gossipsub::MessageId::from(m.data[..8.min(m.data.len())].to_vec())
                })
                .build()
                .unwrap();
            let anonymous = gossipsub::MessageAuthenticity::Anonymous;
            let mut gossip = gossipsub::Behaviour::new(anonymous, config).unwrap();
            gossip.subscribe(&topics.consensus).unwrap();
            gossip.subscribe(&topics.transactions).unwrap();
            gossip.subscribe(&topics.records).unwrap();
            RogueBehaviour {
                gossip,
                status: raw("/axolotl/status/1", rr::ProtocolSupport::Full),
                sync: raw("/axolotl/sync/1", rr::ProtocolSupport::Full),
                frames: raw("/meshsub/1.1.0", rr::ProtocolSupport::Outbound),
                identify: identify::Behaviour::new(identify::Config::new(
                    chain_label(&chain(1)),
                    key.public(),
                )),
                ping: ping::Behaviour::default(),
            }
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
        .build()
}

/// A status that any node takes.
async fn good_status() -> Vec<u8> {
    use rr::Codec;
    let status = WireStatus::from(PeerStatus {
        chain: chain(1),
        height: Height(1_000),
        head: Hash([0; 32]),
        epoch: Epoch(0),
        sealed: None,
        unfit: false,
        version: String::new(),
        highest_vote_of_you: None,
        seal_of_you: None,
    });
    let mut bytes = Vec::new();
    codec::LimitedCodec::<WireStatus, WireStatus>::new(4_096, 4_096)
        .write_request(
            &StreamProtocol::new("/x"),
            &mut bytes,
            codec::Incoming::Good(status),
        )
        .await
        .unwrap();
    bytes
}

/// Runs a rogue that dials `victim`, again and again.
async fn rogue(seed: u8, victim: &Node, deed: Deed) -> JoinHandle<()> {
    let mut swarm = rogue_swarm(seed);
    let status = good_status().await;
    let target: Multiaddr = victim.network.local_addresses()[0].parse().unwrap();
    let peer = identity::peer_id(&victim.key());
    let topics = Topics::new(&chain(1));
    victim
        .network
        .set_allowed(BTreeMap::from([(key(seed).public(), Vec::new())]))
        .await;
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        let mut count = 0u64;
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    count += 1;
                    if !swarm.is_connected(&peer) {
                        // Refused while one is under way.
                        let _ = swarm.dial(target.clone());
                    } else if let Deed::Ask(bytes) = &deed {
                        swarm.behaviour_mut().status.send_request(&peer, bytes.clone());
                    } else if let Deed::Frame(bytes) = &deed {
                        swarm.behaviour_mut().frames.send_request(&peer, bytes.clone());
                    } else if let Deed::Record(bytes) = deed {
                        let mut message = vec![0xff; bytes];
                        message[..8].copy_from_slice(&count.to_le_bytes());
                        let _ = swarm.behaviour_mut().gossip.publish(topics.records.clone(), message);
                    } else if let Deed::Gossip { consensus, bytes } = deed {
                        let mut message = vec![0xff; bytes];
                        message[..8].copy_from_slice(&count.to_le_bytes());
                        let topic = if consensus { &topics.consensus } else { &topics.transactions };
                        // Fails until the subscription of the other side is known.
                        let _ = swarm.behaviour_mut().gossip.publish(topic.clone(), message);
                    }
                }
                event = swarm.select_next_some() => {
                    if let SwarmEvent::Behaviour(RogueBehaviourEvent::Status(rr::Event::Message {
                        message: rr::Message::Request { channel, .. }, ..
                    })) = event {
                        let _ = swarm.behaviour_mut().status.send_response(channel, status.clone());
                    } else if let SwarmEvent::Behaviour(RogueBehaviourEvent::Sync(rr::Event::Message {
                        message: rr::Message::Request { channel, .. }, ..
                    })) = event
                        && let Deed::Answer(bytes) = &deed
                    {
                        let _ = swarm.behaviour_mut().sync.send_response(channel, bytes.clone());
                    }
                }
            }
        }
    })
}

/// The rogue is cut off, and the victim is well.
async fn cut(victim: Node, seed: u8, rogue: JoinHandle<()>) {
    victim
        .until("ban", |peers| {
            peers
                .iter()
                .any(|peer| peer.key == key(seed).public() && peer.banned && !peer.connected)
        })
        .await;
    rogue.abort();
    well(victim).await;
}

/// The victim talks with an honest peer.
async fn well(mut victim: Node) {
    let honest = Node::start(77).await;
    honest.allow(&[&victim]).await;
    victim.allow(&[&honest]).await;
    victim.expect_connected(&[honest.key()]).await;
    honest.expect_connected(&[victim.key()]).await;
    honest.network.publish_consensus(b"well".to_vec()).unwrap();
    loop {
        let (from, bytes, _) = victim.expect_consensus().await;
        if from == honest.key() {
            assert_eq!(&bytes[..], b"well");
            break;
        }
    }
}

async fn answers_are_refused(seed: u8, bytes: Vec<u8>) {
    let victim = Node::start(seed + 100).await;
    let rogue = rogue(seed, &victim, Deed::Answer(bytes)).await;
    let rogue_key = key(seed).public();
    victim.expect_connected(&[rogue_key]).await;
    let answer = victim
        .network
        .request_blocks(rogue_key, Height(1), 10)
        .await;
    assert!(matches!(answer, Err(RequestError::Fault(_))), "{answer:?}");
    eventually("cut off", || async {
        let answer = victim
            .network
            .request_blocks(rogue_key, Height(1), 10)
            .await;
        assert!(answer.is_err());
        answer == Err(RequestError::NotConnected)
    })
    .await;
    cut(victim, seed, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_for_blocks_costs_the_connection() {
    answers_are_refused(11, vec![0xff; 1_000]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_answer_costs_the_connection() {
    answers_are_refused(12, vec![0; limits::MAX_SYNC_RESPONSE_BYTES + 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbage_request_costs_the_connection() {
    let victim = Node::start(113).await;
    let rogue = rogue(13, &victim, Deed::Ask(vec![0xff; 100])).await;
    cut(victim, 13, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_gossip_costs_the_connection() {
    let victim = Node::start(114).await;
    let deed = Deed::Gossip {
        consensus: false,
        bytes: 500,
    };
    let rogue = rogue(14, &victim, deed).await;
    cut(victim, 14, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_gossip_costs_the_connection() {
    let victim = Node::start(115).await;
    let bytes = MAX_BLOCK_BYTES + limits::MAX_CONSENSUS_OVERHEAD_BYTES + 1;
    let rogue = rogue(
        15,
        &victim,
        Deed::Gossip {
            consensus: true,
            bytes,
        },
    )
    .await;
    cut(victim, 15, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_records_cost_the_connection() {
    let victim = Node::start(121).await;
    let deed = Deed::Record(limits::MAX_RECORD_MESSAGE_BYTES + 1);
    let rogue = rogue(21, &victim, deed).await;
    cut(victim, 21, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_records_cost_the_connection() {
    let mut victim = Node::start(122).await;
    let rogue = rogue(22, &victim, Deed::Record(300)).await;
    for _ in 0..limits::BAN_SCORE.div_ceil(Fault::InvalidMessage.points()) {
        let token = victim
            .expect("a record", |event| match event {
                NetworkEvent::Record { token, .. } => Some(token),
                _ => None,
            })
            .await;
        victim.network.reject(token);
    }
    cut(victim, 22, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_frames_that_do_not_decode_cost_the_connection() {
    let victim = Node::start(116).await;
    let rogue = rogue(16, &victim, Deed::Frame(vec![0xff; 100])).await;
    cut(victim, 16, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_frames_beyond_any_limit_are_not_read() {
    let victim = Node::start(118).await;
    let deed = Deed::Gossip {
        consensus: true,
        bytes: 6 << 20,
    };
    let rogue = rogue(18, &victim, deed).await;
    victim.expect_connected(&[key(18).public()]).await;
    // Far more than one frame is on its way; none of it comes out.
    eventually("received bytes", || async {
        victim.metric("libp2p_bandwidth_bytes_total{protocols=\"/ip4/tcp\",direction=\"Inbound\"}")
            > 2 << 20
    })
    .await;
    assert_eq!(
        victim.metric("network_received_total{kind=\"consensus\"}"),
        0
    );
    rogue.abort();
    well(victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_messages_cost_the_connection() {
    let mut victim = Node::start(117).await;
    let rogue = rogue(
        17,
        &victim,
        Deed::Gossip {
            consensus: true,
            bytes: 500,
        },
    )
    .await;
    for _ in 0..limits::BAN_SCORE.div_ceil(Fault::InvalidMessage.points()) {
        let (_, _, token) = victim.expect_consensus().await;
        victim.network.reject(token);
    }
    cut(victim, 17, rogue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_let_in_is_cut_at_once() {
    let (host, guest) = (Node::start(1).await, Node::start(2).await);
    guest.allow(&[&host]).await;
    // Several attempts, none of which makes it a peer.
    eventually("five dials", || async {
        guest.metric("network_dials_total") >= 5
    })
    .await;
    assert!(
        host.network.peers().is_empty(),
        "{:?}",
        host.network.peers()
    );
    assert!(guest.network.connected().is_empty());
    host.allow(&[&guest]).await;
    guest.expect_connected(&[host.key()]).await;
    host.expect_connected(&[guest.key()]).await;
    host.network.set_allowed(no_peers()).await;
    host.until("cut", |peers| peers.is_empty()).await;
    guest
        .until("cut", |peers| peers.iter().all(|peer| !peer.connected))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_chain_is_refused() {
    let (mut one, mut two) = (Node::start(1).await, Node::with(2, chain(2), None).await);
    one.allow(&[&two]).await;
    two.allow(&[&one]).await;
    // Whoever learns it first ends it, and the other need not learn it.
    let refused = |peers: &[PeerInfo]| peers.iter().any(|peer| peer.banned && !peer.connected);
    tokio::select! {
        () = one.until("refusal", refused) => {}
        () = two.until("refusal", refused) => {}
    }
    for node in [&mut one, &mut two] {
        while let Ok(event) = node.events.try_recv() {
            assert!(!matches!(event, NetworkEvent::Connected(_)), "{event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_answer_times_out() {
    let mut nodes = mesh(&[1, 2]).await;
    let (asker, other) = (nodes[0].network.clone(), nodes[1].key());
    let begin = std::time::Instant::now();
    let asked = tokio::spawn(async move { asker.request_blocks(other, Height(1), 1).await });
    let reply = nodes[1]
        .expect("request for blocks", |event| match event {
            NetworkEvent::BlocksWanted { reply, .. } => Some(reply),
            _ => None,
        })
        .await;
    assert_eq!(asked.await.unwrap(), Err(RequestError::Timeout));
    let took = begin.elapsed();
    assert!(
        took < limits::SYNC_TIMEOUT + Duration::from_secs(5),
        "{took:?}"
    );
    drop(reply);
    let asker = nodes[0].network.clone();
    let asked = tokio::spawn(async move { asker.request_blocks(other, Height(1), 1).await });
    nodes[1]
        .expect("request for blocks", |event| match event {
            NetworkEvent::BlocksWanted { reply, .. } => {
                drop(reply);
                Some(())
            }
            _ => None,
        })
        .await;
    let declined = asked.await.unwrap();
    assert!(
        matches!(declined, Err(RequestError::Declined(_))),
        "{declined:?}"
    );
}

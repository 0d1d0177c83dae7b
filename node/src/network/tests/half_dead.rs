//! Connections that one side believes dead and the other does not, and repairs.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;

/// No answer for so long is lost, and nobody has noticed yet.
const UNANSWERED: Duration = Duration::from_secs(1);

/// What becomes of the connections that are open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Forwarded,
    /// What the listening node sends is lost without a word.
    OneWay,
    /// The dialling node sees its connection end; the listening one sees nothing.
    HalfDead,
}

/// Forwards connections to a node.
struct Relay {
    address: SocketAddr,
    fate: watch::Sender<Fate>,
}

impl Relay {
    async fn before(node: &Node) -> Self {
        let target = port_of(&node.network.local_addresses()[0]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fate, told) = watch::channel(Fate::Forwarded);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await {
                    // What is said now is about the connections open now; later ones are forwarded.
                    let mut told = told.clone();
                    told.mark_unchanged();
                    tokio::spawn(forward(near, far, told));
                }
            }
        });
        Self { address, fate }
    }

    fn multiaddr(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.address.port())
    }
}

fn port_of(address: &str) -> u16 {
    let after = address.split("/tcp/").nth(1).unwrap();
    after.split('/').next().unwrap().parse().unwrap()
}

async fn forward(mut near: TcpStream, mut far: TcpStream, mut told: watch::Receiver<Fate>) {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut fate = Fate::Forwarded;
    loop {
        tokio::select! {
            read = near.read(&mut up) => match read {
                Ok(read) if read > 0 => if far.write_all(&up[..read]).await.is_err() { return },
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(read) if read > 0 => {
                    if fate == Fate::Forwarded && near.write_all(&down[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                fate = *told.borrow_and_update();
                if fate == Fate::HalfDead {
                    break;
                }
            }
        }
    }
    drop(near);
    // The far side is not read any more, and stays open.
    std::future::pending::<()>().await;
    drop(far);
}

/// The next consensus message is this one; others before it are dropped.
async fn expect_message(node: &mut Node, wanted: &'static [u8]) {
    node.expect("that message", |event| match event {
        NetworkEvent::Consensus { bytes, .. } => bytes.starts_with(wanted).then_some(()),
        _ => None,
    })
    .await;
}

/// Sends until it arrives: what is written into a connection that is dead is lost.
async fn passes(from: &Node, to: &mut Node, what: &'static [u8]) {
    let network = from.network.clone();
    let sender = tokio::spawn(async move {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        for copy in 0_u64.. {
            pause.tick().await;
            let bytes = [what, &copy.to_le_bytes()].concat();
            network.publish_consensus(bytes).unwrap();
        }
    });
    expect_message(to, what).await;
    sender.abort();
}

/// A validator that comes back while the others still believe in its old connection (rust-libp2p issue 5097).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_passes_both_ways_after_one_side_alone_saw_the_connection_die() {
    let (mut stays, mut returns) = (Node::start(1).await, Node::start(2).await);
    let relay = Relay::before(&stays).await;
    // Who stays does not dial, and who returns knows no other way.
    let nowhere = BTreeMap::from([(returns.key(), Vec::new())]);
    stays.network.set_allowed(nowhere).await;
    let way = BTreeMap::from([(stays.key(), vec![relay.multiaddr()])]);
    returns.network.set_allowed(way).await;
    returns.expect_connected(&[stays.key()]).await;
    stays.expect_connected(&[returns.key()]).await;
    passes(&returns, &mut stays, b"before").await;

    relay.fate.send_replace(Fate::OneWay);
    let answer = returns.network.request_status(stays.key());
    let lost = timeout(UNANSWERED, answer).await;
    assert!(lost.is_err(), "{lost:?}");
    relay.fate.send_replace(Fate::HalfDead);
    returns
        .expect("loss", |event| {
            matches!(event, NetworkEvent::Disconnected(_)).then_some(())
        })
        .await;
    let seen = stays.network.peers();
    assert!(
        seen[0].connected,
        "it saw the connection die, too: {seen:?}"
    );
    let begun = std::time::Instant::now();
    // Its subscription comes, although the other side had announced it on the connection that is dead.
    returns.expect_connected(&[stays.key()]).await;
    passes(&returns, &mut stays, b"there").await;
    passes(&stays, &mut returns, b"back").await;
    let took = begun.elapsed();
    println!("MEASURED gossip passes both ways again after {took:.1?}");
    assert!(
        took < Duration::from_secs(12),
        "{took:?}: left to the library's ping"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_passes_after_each_repair() {
    let mut nodes = mesh(&[1, 2, 3]).await;
    let keys: Vec<PublicKey> = nodes.iter().map(Node::key).collect();
    let (first, others) = nodes.split_at_mut(1);
    let first = &mut first[0];
    for (step, what) in [
        (0, &b"announced"[..]),
        (1, b"reconnected"),
        (2, b"restarted"),
    ] {
        let address = first.network.local_addresses();
        match step {
            0 => first.network.announce(keys[1]),
            1 => first.network.reconnect(keys[1]),
            _ => first.network.restart(),
        }
        if step > 0 {
            let gone = first.expect("loss", |event| match event {
                NetworkEvent::Disconnected(key) => Some(key),
                _ => None,
            });
            assert!(keys[1..].contains(&gone.await));
        }
        first.expect_connected(&keys[1..]).await;
        for other in others.iter_mut() {
            other.expect_connected(&keys[..1]).await;
            passes(first, other, what).await;
            passes(other, first, what).await;
        }
        first.until_listening(&address).await;
    }
    let metric = |kind: &str| first.metric(&format!("network_repairs_total{{kind=\"{kind}\"}}"));
    let counted = ["announce", "reconnect", "restart"].map(metric);
    assert_eq!(counted, [1, 1, 1]);
    // No fault of anybody.
    for node in std::iter::once(&*first).chain(&*others) {
        let faults = node.metric("network_faults_total{kind=\"stream_reset\"}");
        assert_eq!(faults, 0, "a second hello is no second stream");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_fail_when_the_network_is_restarted() {
    let mut nodes = mesh(&[1, 2]).await;
    let (asker, other) = (nodes[0].network.clone(), nodes[1].key());
    let asked = tokio::spawn(async move { asker.request_blocks(other, Height(5), 9).await });
    // Kept, so that it is not answered.
    let _reply = nodes[1]
        .expect("request for blocks", |event| match event {
            NetworkEvent::BlocksWanted { reply, .. } => Some(reply),
            _ => None,
        })
        .await;
    nodes[0].network.restart();
    let failed = asked.await.unwrap();
    assert!(
        matches!(failed, Err(RequestError::Declined(_))),
        "{failed:?}"
    );
    nodes[0].expect_connected(&[other]).await;
}

//! Watches the streams of gossip, and tells a peer this node's subscriptions on every connection.
//!
//! gossipsub 0.50 announces subscriptions on the first connection of a peer only (rust-libp2p issue 5097).
//! When a peer saw a connection die that this side still believes in, it comes back on a second one, is told
//! nothing, and publishes nothing to this node from then on: its votes are lost while both are "connected".
//! So each connection is shown to gossipsub as if it were the first, which makes it say hello, and once more when
//! one of several ends: the dead one may have taken the hello with it.
//!
//! When a peer sends a gossip frame that is too long or does not decode, libp2p ends that stream
//! without a word to us: what the peer writes to it is lost, and it may open the next one. An honest
//! peer opens one stream per connection, so that a second one is what we can see of such a frame, and
//! charge.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished, handler::ConnectionEvent,
    },
};

/// A behaviour whose inbound streams are counted.
pub(crate) struct Guarded<B> {
    pub(crate) inner: B,
    reopened: VecDeque<PeerId>,
}

/// What comes out of [`Guarded`].
#[derive(Debug)]
pub(crate) enum GuardedEvent<E> {
    /// An event of the behaviour inside.
    Inner(E),
    /// The peer opened a further stream on a connection.
    Reopened(PeerId),
}

impl<B> Guarded<B> {
    pub(crate) fn new(inner: B) -> Self {
        Self {
            inner,
            reopened: VecDeque::new(),
        }
    }
}

impl<B: NetworkBehaviour> Guarded<B> {
    /// Tells a connected peer the subscriptions again.
    pub(crate) fn announce(&mut self, peer: PeerId) {
        let nowhere = ConnectedPoint::Listener {
            local_addr: Multiaddr::empty(),
            send_back_addr: Multiaddr::empty(),
        };
        self.greet(peer, ConnectionId::new_unchecked(0), &nowhere);
    }

    /// Of a connection gossipsub looks at the peer only, but for scores by address, which are not in use.
    fn greet(&mut self, peer_id: PeerId, connection_id: ConnectionId, endpoint: &ConnectedPoint) {
        let established = ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint,
            failed_addresses: &[],
            other_established: 0,
        };
        self.inner
            .on_swarm_event(FromSwarm::ConnectionEstablished(established));
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Guarded<B> {
    type ConnectionHandler = GuardedHandler<THandler<B>>;
    type ToSwarm = GuardedEvent<B::ToSwarm>;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(id, peer, local, remote)
            .map(GuardedHandler::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(id, peer, address, role, port_use)
            .map(GuardedHandler::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.greet(
                    established.peer_id,
                    established.connection_id,
                    established.endpoint,
                );
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.inner.on_swarm_event(event);
                if closed.remaining_established > 0 {
                    self.greet(closed.peer_id, closed.connection_id, closed.endpoint);
                }
            }
            event => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            HandlerEvent::Inner(event) => self.inner.on_connection_handler_event(peer, id, event),
            HandlerEvent::Reopened => self.reopened.push_back(peer),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(peer) = self.reopened.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(GuardedEvent::Reopened(peer)));
        }
        self.inner
            .poll(cx)
            .map(|event| event.map_out(GuardedEvent::Inner))
    }
}

/// What the handler tells the behaviour.
#[derive(Debug)]
pub(crate) enum HandlerEvent<E> {
    Inner(E),
    Reopened,
}

/// A connection handler whose inbound streams are counted.
pub(crate) struct GuardedHandler<H> {
    inner: H,
    streams: u32,
    reopened: bool,
}

impl<H> GuardedHandler<H> {
    fn new(inner: H) -> Self {
        Self {
            inner,
            streams: 0,
            reopened: false,
        }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for GuardedHandler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = HandlerEvent<H::ToBehaviour>;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        if std::mem::take(&mut self.reopened) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(
                HandlerEvent::Reopened,
            ));
        }
        self.inner
            .poll(cx)
            .map(|event| event.map_custom(HandlerEvent::Inner))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner
            .poll_close(cx)
            .map(|event| event.map(HandlerEvent::Inner))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        if matches!(event, ConnectionEvent::FullyNegotiatedInbound(_)) {
            self.streams = self.streams.saturating_add(1);
            self.reopened |= self.streams > 1;
        }
        self.inner.on_connection_event(event);
    }
}

//! Wire formats, and the one place where bytes of peers are decoded.
//!
//! | protocol | request | response |
//! |---|---|---|
//! | `/axolotl/status/1` | status | status |
//! | `/axolotl/sync/1` | `{from, count}`, or also `{locked}` | `{blocks: [{records: [bytes], block, proof}]}` |
//! | `/axolotl/tx/1` | `{transactions: [bytes]}` | `{taken}` |
//!
//! All are CBOR maps with text keys, one message per stream and direction, ended by the end of the
//! stream. `block` is the encoded block, `proof` the borsh form of a block proof: a byte for its
//! kind (0: commit certificate, 1: record that adopted the block) and the proof. `records`, left out
//! where there are none, are the recovery and forced records that took force between the block before
//! and this one, each in its borsh form. `locked` is the hash of a block that is not final: the answer
//! holds that one block without a proof, or none. Gossip with transactions is the borsh form of a list
//! of byte strings. Lengths are checked before anything is decoded, counts while it is; heights and epochs
//! near overflow do not decode.

use std::{io, marker::PhantomData};

use alloy_primitives::Bytes;
use axolotl_common::{BlockProof, ChainId, ChainRef, Epoch, Hash, Height, SignedRecord};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use libp2p::{
    StreamProtocol,
    request_response::{self, cbor},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::{ByteArray, ByteBuf};

use super::limits::{
    MAX_PROOF_BYTES, MAX_RECORD_BYTES, MAX_SEAL_BYTES, MAX_SYNC_BLOCKS, MAX_SYNC_RECORDS,
    MAX_TRANSACTIONS_PER_MESSAGE, MAX_VERSION_LEN, MAX_VOTE_BYTES,
};

/// What a node says of itself in the status exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its chain. A peer of another chain is cut off.
    pub chain: ChainRef,
    /// Height of its last durable block.
    pub height: Height,
    /// Hash of that block.
    pub head: Hash,
    /// Epoch that governs its next block.
    pub epoch: Epoch,
    /// It is sealed in this epoch and all before it.
    pub sealed: Option<Epoch>,
    /// Whether it may not vote with its volume.
    pub unfit: bool,
    /// Version of its program, at most [`MAX_VERSION_LEN`] bytes.
    pub version: String,
    /// The highest vote of the receiver that it holds, for the amnesia check; opaque here.
    pub highest_vote_of_you: Option<Bytes>,
    /// The receiver's own word that it is sealed, if this node holds it; opaque here.
    pub seal_of_you: Option<Bytes>,
}

/// A block with the proof that it is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncBlock {
    /// The recovery and forced records that took force between the block before and this one, in order.
    pub records: Vec<SignedRecord>,
    /// The encoded block.
    pub block: Bytes,
    /// What makes it final.
    pub proof: BlockProof,
}

impl SyncBlock {
    /// Height of the block, by its proof.
    pub fn height(&self) -> Height {
        self.proof.height()
    }

    /// About what it takes, bytes.
    pub fn size(&self) -> usize {
        let records: usize = self.records.iter().map(SignedRecord::size).sum();
        self.block.len() + self.proof.size() + records
    }
}

/// Why bytes of a peer are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It does not decode.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Longer, or more, than allowed.
    #[error("{what} is {found}, at most {max} is allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large.
        found: usize,
        /// How large it may be.
        max: usize,
    },
}

fn bounded(what: &'static str, found: usize, max: usize) -> Result<(), WireError> {
    if found > max {
        return Err(WireError::TooLarge { what, found, max });
    }
    Ok(())
}

/// Status on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireStatus {
    chain_id: u64,
    genesis: ByteArray<32>,
    height: Height,
    head: ByteArray<32>,
    epoch: Epoch,
    sealed: Option<Epoch>,
    unfit: bool,
    version: String,
    vote: Option<ByteBuf>,
    seal: Option<ByteBuf>,
}

impl From<PeerStatus> for WireStatus {
    fn from(status: PeerStatus) -> Self {
        let mut version = status.version;
        let end = (0..=MAX_VERSION_LEN)
            .rev()
            .find(|end| version.is_char_boundary(*end))
            .unwrap_or(0);
        version.truncate(end);
        Self {
            chain_id: status.chain.id.0,
            genesis: ByteArray::new(status.chain.genesis.0),
            height: status.height,
            head: ByteArray::new(status.head.0),
            epoch: status.epoch,
            sealed: status.sealed,
            unfit: status.unfit,
            version,
            vote: status
                .highest_vote_of_you
                .map(|vote| ByteBuf::from(vote.to_vec())),
            seal: status.seal_of_you.map(|seal| ByteBuf::from(seal.to_vec())),
        }
    }
}

impl TryFrom<WireStatus> for PeerStatus {
    type Error = WireError;

    fn try_from(wire: WireStatus) -> Result<Self, WireError> {
        bounded("version", wire.version.len(), MAX_VERSION_LEN)?;
        if let Some(vote) = &wire.vote {
            bounded("vote", vote.len(), MAX_VOTE_BYTES)?;
        }
        if let Some(seal) = &wire.seal {
            bounded("seal", seal.len(), MAX_SEAL_BYTES)?;
        }
        Ok(Self {
            chain: ChainRef {
                id: ChainId(wire.chain_id),
                genesis: Hash(wire.genesis.into_array()),
            },
            height: wire.height,
            head: Hash(wire.head.into_array()),
            epoch: wire.epoch,
            sealed: wire.sealed,
            unfit: wire.unfit,
            version: wire.version,
            highest_vote_of_you: wire.vote.map(|vote| Bytes::from(vote.into_vec())),
            seal_of_you: wire.seal.map(|seal| Bytes::from(seal.into_vec())),
        })
    }
}

/// Asks for `count` blocks from height `from` on; or, with `locked`, for the one block of that hash which
/// is not final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SyncRequest {
    pub(crate) from: Height,
    pub(crate) count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) locked: Option<ByteArray<32>>,
}

impl SyncRequest {
    /// Asks for blocks of the chain.
    pub(crate) fn blocks(from: Height, count: u32) -> Self {
        Self {
            from,
            count,
            locked: None,
        }
    }

    /// Asks for a block that is not final.
    pub(crate) fn locked(block: Hash) -> Self {
        Self {
            from: Height(0),
            count: 0,
            locked: Some(ByteArray::new(block.0)),
        }
    }
}

/// Blocks in order from the height that was asked for; fewer than asked for when there are no more
/// or they would be too large together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SyncResponse {
    #[serde(deserialize_with = "bounded_list::<_, _, MAX_SYNC_BLOCKS>")]
    pub(crate) blocks: Vec<WireBlock>,
}

/// One block on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireBlock {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded_list::<_, _, MAX_SYNC_RECORDS>"
    )]
    records: Vec<WireBytes>,
    #[serde(with = "cbor_bytes")]
    block: Bytes,
    #[serde(with = "cbor_bytes")]
    proof: Bytes,
}

fn borsh_bytes<T: borsh::BorshSerialize>(value: &T) -> Bytes {
    let bytes = borsh::to_vec(value).expect("writing to a Vec does not fail");
    bytes.into()
}

/// Reads a borsh value of bounded length.
fn borsh_value<T: borsh::BorshDeserialize>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, WireError> {
    bounded(what, bytes.len(), max)?;
    borsh::from_slice(bytes).map_err(|error| WireError::Malformed(format!("{what}: {error}")))
}

impl SyncResponse {
    /// Answers [`SyncRequest::locked`].
    pub(crate) fn locked(block: Option<Bytes>) -> Self {
        let proof = Bytes::new();
        Self {
            blocks: block
                .into_iter()
                .map(|block| WireBlock {
                    records: Vec::new(),
                    block,
                    proof: proof.clone(),
                })
                .collect(),
        }
    }

    /// The answer to [`SyncRequest::locked`].
    pub(crate) fn into_locked(mut self) -> Result<Option<Bytes>, WireError> {
        bounded("count of blocks", self.blocks.len(), 1)?;
        Ok(self.blocks.pop().map(|wire| wire.block))
    }
}

impl From<Vec<SyncBlock>> for SyncResponse {
    fn from(blocks: Vec<SyncBlock>) -> Self {
        let blocks = blocks
            .into_iter()
            .map(|block| WireBlock {
                records: block
                    .records
                    .iter()
                    .map(|record| WireBytes(borsh_bytes(record)))
                    .collect(),
                block: block.block,
                proof: borsh_bytes(&block.proof),
            })
            .collect();
        Self { blocks }
    }
}

impl TryFrom<SyncResponse> for Vec<SyncBlock> {
    type Error = WireError;

    fn try_from(response: SyncResponse) -> Result<Self, WireError> {
        let record = |bytes: &WireBytes| borsh_value("record", &bytes.0, MAX_RECORD_BYTES);
        let decode = |wire: WireBlock| {
            Ok(SyncBlock {
                records: wire.records.iter().map(record).collect::<Result<_, _>>()?,
                proof: borsh_value("proof", &wire.proof, MAX_PROOF_BYTES)?,
                block: wire.block,
            })
        };
        response.blocks.into_iter().map(decode).collect()
    }
}

/// Transactions sent straight to one peer, EIP-2718 encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransactionsRequest {
    #[serde(deserialize_with = "bounded_list::<_, _, MAX_TRANSACTIONS_PER_MESSAGE>")]
    pub(crate) transactions: Vec<WireBytes>,
}

/// How many of them were taken to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransactionsResponse {
    pub(crate) taken: u32,
}

/// A byte string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireBytes(#[serde(with = "cbor_bytes")] pub(crate) Bytes);

/// CBOR byte strings; a list of numbers would be 80 times slower.
mod cbor_bytes {
    use super::{ByteBuf, Bytes, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        ByteBuf::deserialize(d).map(|bytes| Bytes::from(bytes.into_vec()))
    }
}

/// A list that stops being read at its bound: a few bytes per element must not become much memory.
fn bounded_list<'de, D, T, const MAX: usize>(d: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Visitor<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for Visitor<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MAX}")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = seq.next_element()? {
                if list.len() == MAX {
                    return Err(de::Error::invalid_length(MAX + 1, &self));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    d.deserialize_seq(Visitor::<T, MAX>(PhantomData))
}

/// Splits transactions into gossip messages of bounded size and count. A transaction too long for a
/// message is left out.
pub(crate) fn encode_transactions(
    transactions: &[Bytes],
    max_bytes: usize,
    max_count: usize,
) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for batch in split_transactions(transactions, max_bytes, max_count) {
        let mut message =
            Vec::with_capacity(4 + batch.iter().map(|tx| 4 + tx.len()).sum::<usize>());
        message.extend_from_slice(&(batch.len() as u32).to_le_bytes());
        for transaction in batch {
            message.extend_from_slice(&(transaction.len() as u32).to_le_bytes());
            message.extend_from_slice(transaction);
        }
        messages.push(message);
    }
    messages
}

/// Groups transactions so that each group fits a message.
pub(crate) fn split_transactions(
    transactions: &[Bytes],
    max_bytes: usize,
    max_count: usize,
) -> Vec<Vec<&Bytes>> {
    let (mut batches, mut batch, mut size) = (Vec::new(), Vec::new(), 4);
    for transaction in transactions {
        let length = 4 + transaction.len();
        if 4 + length > max_bytes {
            continue;
        }
        if size + length > max_bytes || batch.len() == max_count {
            batches.push(std::mem::take(&mut batch));
            size = 4;
        }
        size += length;
        batch.push(transaction);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Reads a gossip message with transactions.
pub(crate) fn decode_transactions(
    message: &[u8],
    max_bytes: usize,
    max_count: usize,
) -> Result<Vec<Bytes>, WireError> {
    fn length(rest: &mut &[u8]) -> Result<usize, WireError> {
        let (head, tail) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| WireError::Malformed("length cut off".to_owned()))?;
        *rest = tail;
        Ok(u32::from_le_bytes(*head) as usize)
    }

    bounded("message", message.len(), max_bytes)?;
    let mut rest = message;
    let count = length(&mut rest)?;
    bounded("count of transactions", count, max_count)?;
    let mut transactions = Vec::with_capacity(count.min(message.len() / 4));
    for _ in 0..count {
        let size = length(&mut rest)?;
        let (transaction, tail) = rest
            .split_at_checked(size)
            .ok_or_else(|| WireError::Malformed("transaction cut off".to_owned()))?;
        transactions.push(Bytes::copy_from_slice(transaction));
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(WireError::Malformed("bytes after the end".to_owned()));
    }
    Ok(transactions)
}

/// A request as it was read. The library says nothing of requests that cannot be read, and their
/// senders would go free: so they come as requests too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<T> {
    Good(T),
    Bad(String),
}

/// CBOR with our limits. What a peer sent wrongly comes out as [`Incoming::Bad`], or for answers as
/// [`io::ErrorKind::InvalidData`], so that it can be told from a connection that broke.
pub(crate) struct LimitedCodec<Request, Response> {
    cbor: cbor::codec::Codec<Request, Response>,
    max_request_bytes: usize,
    max_response_bytes: usize,
}

impl<Request, Response> LimitedCodec<Request, Response> {
    pub(crate) fn new(max_request_bytes: usize, max_response_bytes: usize) -> Self {
        Self {
            cbor: cbor::codec::Codec::default()
                .set_request_size_maximum(max_request_bytes as u64)
                .set_response_size_maximum(max_response_bytes as u64),
            max_request_bytes,
            max_response_bytes,
        }
    }
}

impl<Request, Response> Clone for LimitedCodec<Request, Response> {
    fn clone(&self) -> Self {
        Self {
            cbor: self.cbor.clone(),
            ..*self
        }
    }
}

async fn read_limited<T>(io: &mut T, max: usize) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut bytes = Vec::new();
    io.take(max as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.is_empty() {
        // The other side declined to answer, or went away before it wrote anything.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.len() > max {
        let error = WireError::TooLarge {
            what: "message",
            found: bytes.len(),
            max,
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(bytes)
}

fn malformed(error: io::Error) -> io::Error {
    let error = WireError::Malformed(error.to_string());
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<Request, Response> request_response::Codec for LimitedCodec<Request, Response>
where
    Request: Send + Serialize + de::DeserializeOwned,
    Response: Send + Serialize + de::DeserializeOwned,
{
    type Protocol = StreamProtocol;
    type Request = Incoming<Request>;
    type Response = Response;

    async fn read_request<T>(
        &mut self,
        name: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Incoming<Request>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = match read_limited(io, self.max_request_bytes).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Incoming::Bad(error.to_string()));
            }
            read => read?,
        };
        let decoded = self.cbor.read_request(name, &mut bytes.as_slice()).await;
        Ok(decoded.map_or_else(|error| Incoming::Bad(error.to_string()), Incoming::Good))
    }

    async fn read_response<T>(&mut self, name: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read_limited(io, self.max_response_bytes).await?;
        let decoded = self.cbor.read_response(name, &mut bytes.as_slice()).await;
        decoded.map_err(malformed)
    }

    async fn write_request<T>(
        &mut self,
        name: &StreamProtocol,
        io: &mut T,
        request: Incoming<Request>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match request {
            Incoming::Good(request) => self.cbor.write_request(name, io, request).await,
            Incoming::Bad(why) => Err(io::Error::other(why)),
        }
    }

    async fn write_response<T>(
        &mut self,
        name: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.cbor.write_response(name, io, response).await
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

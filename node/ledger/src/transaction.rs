//! Signed transactions (EIP-2718), decoded and authenticated once.
//!
//! Recovering a sender costs more than executing a transfer. A [`Transaction`] is therefore only
//! made by [`Transaction::decode`], which recovers it, and is then shared as a [`Tx`] between
//! mempool, proposal and execution.

use std::sync::Arc;

use alloy_consensus::{
    Transaction as _, TxEnvelope, TxType, crypto::secp256k1::recover_signer,
    transaction::SignerRecoverable,
};
use alloy_eips::{
    eip2718::{Decodable2718, Encodable2718},
    eip7702::{RecoveredAuthority, RecoveredAuthorization, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::Encodable;
use axolotl_common::ChainId;

use crate::{execution::intrinsic_gas, genesis::ChainSpec, rules::Rules};

/// Largest encoded transaction, bytes: geth's limit as well.
pub const MAX_TRANSACTION_BYTES: usize = 128 << 10;

/// Longest code that creates a contract, bytes (EIP-3860).
pub const MAX_INITCODE_BYTES: usize = 2 * 24_576;

/// A decoded transaction that is shared.
pub type Tx = Arc<Transaction>;

/// Why a transaction cannot be in a block. The words are geth's: clients match on them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Larger than [`MAX_TRANSACTION_BYTES`].
    #[error("oversized data: transaction size {size}, limit {limit}")]
    Oversized {
        /// Its size, bytes.
        size: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// The bytes are not an EIP-2718 transaction.
    #[error("{0}")]
    Malformed(String),
    /// A blob transaction, or a type that does not exist.
    #[error("transaction type not supported")]
    TypeNotSupported,
    /// A legacy transaction without a chain id.
    #[error("only replay-protected (EIP-155) transactions allowed over RPC")]
    NotReplayProtected,
    /// Signed for another chain.
    #[error("invalid chain id for signer: have {have} want {want}")]
    WrongChain {
        /// The transaction's chain id.
        have: u64,
        /// This chain's id.
        want: u64,
    },
    /// The signature gives no sender, or has a high s value (EIP-2).
    #[error("invalid sender")]
    InvalidSender,
    /// The gas limit is above that of a block.
    #[error("exceeds block gas limit")]
    ExceedsBlockGasLimit,
    /// The gas limit is above that of a transaction (EIP-7825).
    #[error("transaction gas limit too high (cap: {cap}, tx: {tx})")]
    GasLimitTooHigh {
        /// Most that a transaction may ask for.
        cap: u64,
        /// Its gas limit.
        tx: u64,
    },
    /// The transactions before it leave too little of the block's gas.
    #[error("gas limit reached")]
    GasLimitReached,
    /// What it logs fits into no block of the chain.
    #[error("logs exceed block limit: {bytes} bytes, limit {limit}")]
    LogsTooLong {
        /// What it logs, bytes.
        bytes: u64,
        /// The limit of a block, bytes.
        limit: u64,
    },
    /// What it would cost is no 256-bit number.
    #[error(
        "insufficient funds for gas * price + value: address {sender} required balance exceeds 256 bits"
    )]
    CostOverflow {
        /// Who sent it.
        sender: Address,
    },
    /// The tip is above the fee cap.
    #[error(
        "max priority fee per gas higher than max fee per gas: address {sender}, maxPriorityFeePerGas: {tip}, maxFeePerGas: {fee_cap}"
    )]
    TipAboveFeeCap {
        /// Who sent it.
        sender: Address,
        /// Its tip, wei per gas.
        tip: u128,
        /// Its fee cap, wei per gas.
        fee_cap: u128,
    },
    /// The fee cap is below the block's base fee.
    #[error(
        "max fee per gas less than block base fee: address {sender}, maxFeePerGas: {fee_cap}, baseFee: {base_fee}"
    )]
    FeeCapTooLow {
        /// Who sent it.
        sender: Address,
        /// Its fee cap, wei per gas.
        fee_cap: u128,
        /// The block's base fee, wei per gas.
        base_fee: u64,
    },
    /// The gas limit does not pay for the transaction's own bytes.
    #[error("intrinsic gas too low: have {have}, want {want}")]
    IntrinsicGas {
        /// Its gas limit.
        have: u64,
        /// What is needed.
        want: u64,
    },
    /// The gas limit is below EIP-7623's floor for its data.
    #[error("insufficient gas for floor data gas cost: have {have}, want {want}")]
    FloorDataGas {
        /// Its gas limit.
        have: u64,
        /// What is needed.
        want: u64,
    },
    /// The code that creates a contract is too long (EIP-3860).
    #[error("max initcode size exceeded: code size {size}, limit {limit}")]
    InitCodeTooLarge {
        /// Its length, bytes.
        size: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// A set-code transaction (EIP-7702) that sets nothing.
    #[error("EIP-7702 transaction with empty auth list (sender {sender})")]
    EmptyAuthorizationList {
        /// Who sent it.
        sender: Address,
    },
    /// The nonce was used already.
    #[error("nonce too low: address {sender}, tx: {tx} state: {state}")]
    NonceTooLow {
        /// Who sent it.
        sender: Address,
        /// Its nonce.
        tx: u64,
        /// The account's next nonce.
        state: u64,
    },
    /// Transactions before it are missing.
    #[error("nonce too high: address {sender}, tx: {tx} state: {state}")]
    NonceTooHigh {
        /// Who sent it.
        sender: Address,
        /// Its nonce.
        tx: u64,
        /// The account's next nonce.
        state: u64,
    },
    /// There is no nonce after this one.
    #[error("nonce has max value: address {sender}, nonce: {nonce}")]
    NonceMax {
        /// Who sent it.
        sender: Address,
        /// Its nonce.
        nonce: u64,
    },
    /// The sender cannot pay.
    #[error("insufficient funds for gas * price + value: address {sender} have {have} want {want}")]
    InsufficientFunds {
        /// Who sent it.
        sender: Address,
        /// Its balance, wei.
        have: U256,
        /// What the transaction may cost, wei.
        want: U256,
    },
    /// The sender is a contract (EIP-3607).
    #[error("sender not an eoa: address {sender}")]
    SenderNotEoa {
        /// Who sent it.
        sender: Address,
    },
    /// A rule that has no words of geth's.
    #[error("{0}")]
    Other(String),
}

impl TransactionError {
    /// Whether no later block can hold the transaction, whatever the state becomes, as far as this error
    /// tells: a pool need not keep it.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Oversized { .. }
            | Self::Malformed(_)
            | Self::TypeNotSupported
            | Self::NotReplayProtected
            | Self::WrongChain { .. }
            | Self::InvalidSender
            | Self::ExceedsBlockGasLimit
            | Self::GasLimitTooHigh { .. }
            | Self::LogsTooLong { .. }
            | Self::CostOverflow { .. }
            | Self::TipAboveFeeCap { .. }
            | Self::IntrinsicGas { .. }
            | Self::FloorDataGas { .. }
            | Self::InitCodeTooLarge { .. }
            | Self::EmptyAuthorizationList { .. }
            | Self::NonceTooLow { .. }
            | Self::NonceMax { .. } => true,
            Self::GasLimitReached
            | Self::FeeCapTooLow { .. }
            | Self::NonceTooHigh { .. }
            | Self::InsufficientFunds { .. }
            | Self::SenderNotEoa { .. }
            | Self::Other(_) => false,
        }
    }
}

/// A transaction whose sender is known. It cannot be changed.
#[derive(Clone, Debug)]
pub struct Transaction {
    envelope: TxEnvelope,
    sender: Address,
    hash: B256,
    raw: Bytes,
    authorizations: Vec<RecoveredAuthorization>,
}

impl PartialEq for Transaction {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Transaction {}

impl Transaction {
    /// Decodes a transaction of type 0, 1, 2 or 4 for this chain, and recovers its sender.
    ///
    /// # Errors
    /// When it is too long, no transaction, of an unsupported type, not for this chain, not
    /// encoded in the one canonical way, or its signature is not valid. What depends on the
    /// chain's rules is for [`Transaction::check_static`], what depends on the state for
    /// execution.
    pub fn decode(raw: &[u8], chain_id: ChainId) -> Result<Self, TransactionError> {
        // The type first: a blob transaction in its network form is longer than any other.
        check_type(raw)?;
        if raw.len() > MAX_TRANSACTION_BYTES {
            return Err(TransactionError::Oversized {
                size: raw.len(),
                limit: MAX_TRANSACTION_BYTES,
            });
        }
        let malformed = |e: &dyn std::fmt::Display| TransactionError::Malformed(e.to_string());
        let envelope = TxEnvelope::decode_2718_exact(raw).map_err(|e| malformed(&e))?;
        let mut buffer = Vec::with_capacity(raw.len());
        envelope.encode_2718(&mut buffer);
        if buffer != raw {
            return Err(malformed(&"rlp: the encoding is not canonical"));
        }
        match envelope.chain_id() {
            None => return Err(TransactionError::NotReplayProtected),
            Some(have) if have != chain_id.0 => {
                return Err(TransactionError::WrongChain {
                    have,
                    want: chain_id.0,
                });
            }
            Some(_) => {}
        }
        let sender = envelope
            .recover_with_buf(&mut buffer)
            .map_err(|_| TransactionError::InvalidSender)?;
        Ok(Self::assemble(envelope, sender, raw))
    }

    /// Puts together what was decoded; recovers the authorities of EIP-7702.
    fn assemble(envelope: TxEnvelope, sender: Address, raw: &[u8]) -> Self {
        let authorizations = envelope
            .authorization_list()
            .unwrap_or_default()
            .iter()
            .map(recover_authority)
            .collect();
        Self {
            hash: keccak256(raw),
            envelope,
            sender,
            raw: Bytes::copy_from_slice(raw),
            authorizations,
        }
    }

    /// Keccak-256 of the encoding.
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Who signed it.
    pub fn sender(&self) -> Address {
        self.sender
    }

    /// Its place among the sender's transactions.
    pub fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    /// Most gas that it may use.
    pub fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit()
    }

    /// What it transfers, wei.
    pub fn value(&self) -> U256 {
        self.envelope.value()
    }

    /// The decoded transaction with its signature.
    pub fn envelope(&self) -> &TxEnvelope {
        &self.envelope
    }

    /// The EIP-2718 type.
    pub fn tx_type(&self) -> TxType {
        self.envelope.tx_type()
    }

    /// The EIP-2718 encoding.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What it takes in an encoded block, bytes.
    pub fn encoded_len(&self) -> usize {
        self.raw[..].length()
    }

    /// The authorizations of a set-code transaction (EIP-7702), each with the account that signed
    /// it or the mark that its signature is not valid.
    pub fn authorizations(&self) -> &[RecoveredAuthorization] {
        &self.authorizations
    }

    /// Most that it pays for gas, wei per gas.
    pub fn max_fee_per_gas(&self) -> u128 {
        self.envelope.max_fee_per_gas()
    }

    /// Most that it pays to the builder, wei per gas; of types 0 and 1 the gas price.
    pub fn max_priority_fee_per_gas(&self) -> u128 {
        self.envelope
            .max_priority_fee_per_gas()
            .unwrap_or_else(|| self.max_fee_per_gas())
    }

    /// What the builder gets at this base fee, wei per gas. `None`: the fee cap is below it.
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        let above = self.max_fee_per_gas().checked_sub(base_fee.into())?;
        Some(above.min(self.max_priority_fee_per_gas()))
    }

    /// What the sender pays at this base fee, wei per gas.
    pub fn effective_gas_price(&self, base_fee: u64) -> u128 {
        self.envelope.effective_gas_price(Some(base_fee))
    }

    /// Most that it can cost the sender, wei: gas limit times fee cap, plus value.
    pub fn max_cost(&self) -> U256 {
        // 64 bits times 128 bits fit.
        let gas = U256::from(self.gas_limit()) * U256::from(self.max_fee_per_gas());
        gas.saturating_add(self.value())
    }

    /// Checks what depends on the chain and the rules of the next block alone, not on its state.
    ///
    /// # Errors
    /// When no block at these rules can ever hold the transaction.
    pub fn check_static(&self, spec: &ChainSpec, rules: Rules) -> Result<(), TransactionError> {
        let (sender, have) = (self.sender, self.gas_limit());
        let (size, limit) = (self.encoded_len(), spec.max_transactions_bytes());
        if size > limit {
            return Err(TransactionError::Oversized { size, limit });
        }
        if let Some(cap) = rules.transaction_gas_cap().filter(|cap| have > *cap) {
            return Err(TransactionError::GasLimitTooHigh { cap, tx: have });
        }
        if have > spec.gas_limit {
            return Err(TransactionError::ExceedsBlockGasLimit);
        }
        let (tip, fee_cap) = (self.max_priority_fee_per_gas(), self.max_fee_per_gas());
        if tip > fee_cap {
            return Err(TransactionError::TipAboveFeeCap {
                sender,
                tip,
                fee_cap,
            });
        }
        let gas = U256::from(have) * U256::from(fee_cap);
        if gas.checked_add(self.value()).is_none() {
            return Err(TransactionError::CostOverflow { sender });
        }
        if self.nonce() == u64::MAX {
            return Err(TransactionError::NonceMax {
                sender,
                nonce: u64::MAX,
            });
        }
        let size = self.envelope.input().len();
        if self.envelope.is_create() && size > MAX_INITCODE_BYTES {
            return Err(TransactionError::InitCodeTooLarge {
                size,
                limit: MAX_INITCODE_BYTES,
            });
        }
        if self.tx_type() == TxType::Eip7702 && self.authorizations.is_empty() {
            return Err(TransactionError::EmptyAuthorizationList { sender });
        }
        let (want, floor) = intrinsic_gas(self, rules);
        if have < want {
            return Err(TransactionError::IntrinsicGas { have, want });
        }
        if have < floor {
            return Err(TransactionError::FloorDataGas { have, want: floor });
        }
        Ok(())
    }
}

impl Transaction {
    /// Reads a transaction back whose sender was recovered before and stored beside it by this
    /// node. Never for bytes from anywhere else: the signature is not looked at.
    ///
    /// # Errors
    /// When the bytes are not a transaction.
    pub fn from_stored(raw: &[u8], sender: Address) -> Result<Self, TransactionError> {
        let envelope = TxEnvelope::decode_2718_exact(raw)
            .map_err(|e| TransactionError::Malformed(e.to_string()))?;
        Ok(Self::assemble(envelope, sender, raw))
    }
}

/// Looks at the first byte: a list (from 0xc0) is a legacy transaction, anything else its type.
fn check_type(raw: &[u8]) -> Result<(), TransactionError> {
    match raw.first() {
        None => Err(TransactionError::Malformed(
            "typed transaction too short".into(),
        )),
        Some(1 | 2 | 4 | 0xc0..) => Ok(()),
        Some(_) => Err(TransactionError::TypeNotSupported),
    }
}

/// Finds who signed an authorization. One that nobody signed is skipped when it is executed
/// (EIP-7702), so it makes the transaction no less valid.
fn recover_authority(signed: &SignedAuthorization) -> RecoveredAuthorization {
    let authority = signed
        .signature()
        .ok()
        .and_then(|signature| recover_signer(&signature, signed.signature_hash()).ok())
        .map_or(RecoveredAuthority::Invalid, RecoveredAuthority::Valid);
    RecoveredAuthorization::new_unchecked(signed.inner().clone(), authority)
}

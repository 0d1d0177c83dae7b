//! Encodings: round trips, and bytes that mean nothing.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use std::sync::OnceLock;

use alloy_consensus::{ReceiptEnvelope, TxType};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Log, TxKind, U256, hex};
use axolotl_common::ChainId;
use axolotl_common::{Epoch, EpochRecord, Height, membership::RecordKind};
use axolotl_ledger::{Account, Block, BlockAttributes, Receipt, Transaction, block::encode_record};
use proptest::prelude::*;
use support::*;

/// A block with some of everything in it.
fn sample() -> &'static (Vec<u8>, Block) {
    static SAMPLE: OnceLock<(Vec<u8>, Block)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let mut chain = TestChain::new(&[]);
        let record = EpochRecord {
            number: Epoch(1),
            kind: RecordKind::Planned,
            succeeds: chain.validators.record_hash(),
            members: (2..=5).map(member).collect(),
            base_height: Height(0),
            expiry_height: None,
            handover: None,
        };
        let signed = record.sign(&chain.spec.chain, &authority());
        let create = chain.tx(0, TxKind::Create, 0, deploy(&storer()), 200_000);
        let transfer = chain.tx(1, TxKind::Call(Address::ZERO), 1, Bytes::new(), 21_000);
        let attributes = BlockAttributes {
            requests: vec![encode_record(&signed)],
            ..chain.attributes()
        };
        let mut queue = Queue::new(vec![create, transfer]);
        let built = chain.build_with(attributes, &mut queue).unwrap();
        (built.bytes.to_vec(), built.block)
    })
}

fn decode_block(bytes: &[u8]) -> Option<Block> {
    Block::decode(bytes, ChainId(CHAIN), &|_| None).ok()
}

fn receipts() -> impl Strategy<Value = Receipt> {
    let log = (
        any::<[u8; 20]>(),
        prop::collection::vec(any::<[u8; 32]>(), 0..=4),
        any::<Vec<u8>>(),
    )
        .prop_map(|(address, topics, data)| {
            let topics = topics.into_iter().map(B256::from).collect();
            Log::new_unchecked(address.into(), topics, data.into())
        });
    (
        prop_oneof![
            Just(TxType::Legacy),
            Just(TxType::Eip2930),
            Just(TxType::Eip1559),
            Just(TxType::Eip7702)
        ],
        any::<(bool, u64, u64, u128)>(),
        prop::collection::vec(log, 0..4),
        prop::option::of(any::<[u8; 20]>()),
    )
        .prop_map(
            |(tx_type, (success, gas_used, cumulative_gas_used, price), logs, contract)| Receipt {
                tx_type,
                success,
                gas_used,
                cumulative_gas_used,
                logs,
                contract_address: contract.map(Address::from),
                effective_gas_price: price,
            },
        )
}

#[test]
fn blocks_read_what_they_write() {
    let (bytes, block) = sample();
    let decoded = decode_block(bytes).unwrap();
    assert_eq!(decoded, *block);
    assert_eq!(decoded.hash(), block.hash());
    assert_eq!(decoded.encode(), *bytes);
    for cut in 0..bytes.len() {
        assert_eq!(decode_block(&bytes[..cut]), None, "cut at {cut}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(decode_block(&longer), None);
}

#[test]
fn an_ethereum_receipt() {
    let receipt = Receipt {
        tx_type: TxType::Eip1559,
        success: true,
        gas_used: 21_000,
        cumulative_gas_used: 21_000,
        logs: Vec::new(),
        contract_address: None,
        effective_gas_price: 1,
    };
    assert!(matches!(receipt.envelope(), ReceiptEnvelope::Eip1559(_)));
    // Type, list of status, gas, bloom, logs.
    let mut expected = hex!("02f9010801825208b90100").to_vec();
    expected.extend([0; 256]);
    expected.push(0xc0);
    assert_eq!(receipt.envelope().encoded_2718(), expected);
}

proptest! {
    #[test]
    fn receipts_read_what_they_write(receipt in receipts()) {
        let bytes = receipt.encode();
        prop_assert_eq!(Receipt::decode(&bytes).unwrap(), receipt);
        prop_assert!(Receipt::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn accounts_read_what_they_write(
        nonce: u64,
        balance in any::<[u64; 4]>(),
        root in prop::option::of(any::<[u8; 32]>()),
        code in prop::option::of(any::<[u8; 32]>()),
    ) {
        let empty = Account::default();
        let account = Account {
            nonce,
            balance: U256::from_limbs(balance),
            storage_root: root.map_or(empty.storage_root, B256::from),
            code_hash: code.map_or(empty.code_hash, B256::from),
        };
        prop_assert_eq!(Account::decode(&account.encode()).unwrap(), account);
        prop_assert_eq!(Account::decode(&account.trie_value()).unwrap(), account);
        let trie = alloy_trie::TrieAccount {
            nonce,
            balance: account.balance,
            storage_root: account.storage_root,
            code_hash: account.code_hash,
        };
        prop_assert_eq!(alloy_rlp::encode(trie), account.trie_value());
    }

    #[test]
    fn random_bytes_are_harmless(bytes: Vec<u8>) {
        decode_block(&bytes);
        let _ = Transaction::decode(&bytes, ChainId(CHAIN));
        let _ = Receipt::decode(&bytes);
        let _ = Account::decode(&bytes);
        for head in [1, 2, 4, 0xf8] {
            let mut typed = vec![head];
            typed.extend(&bytes);
            let _ = Transaction::decode(&typed, ChainId(CHAIN));
        }
    }

    #[test]
    fn spoilt_blocks_are_harmless(
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        do_cut: bool,
    ) {
        let (good, block) = sample();
        let mut bytes = good.clone();
        for (place, value) in spoilt {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if do_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(decoded) = decode_block(&bytes) {
            // One encoding each: whatever is taken is written the same.
            prop_assert_eq!(decoded.encode(), bytes.clone());
            if bytes == *good {
                prop_assert_eq!(decoded, block.clone());
            } else {
                let chain = TestChain::new(&[]);
                // Another time makes another valid block; nothing else does.
                if let Ok(executed) = chain.execute(decoded) {
                    prop_assert!(executed.block.header.timestamp > GENESIS_TIME);
                }
            }
        }
    }
}

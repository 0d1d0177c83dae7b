//! Accounts that programs use, and transfers signed by them.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use zeroize::Zeroizing;

/// Secret keys of the ten accounts of the mnemonic "test test … junk", in the order of
/// [`axolotl_common::genesis::DEV_ACCOUNTS`]. They are published in every Ethereum tutorial: whoever
/// puts them in the genesis of a chain of value gives that value away.
pub const DEV_SECRETS: [[u8; 32]; 10] = [
    hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    hex!("7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    hex!("47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
    hex!("8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
    hex!("92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e"),
    hex!("4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356"),
    hex!("dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97"),
    hex!("2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6"),
];

/// Gas of a plain transfer.
pub const TRANSFER_GAS: u64 = 21_000;

/// An account whose key this program holds.
#[derive(Clone, Debug)]
pub struct Account(PrivateKeySigner);

/// What a transaction pays for gas, wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// Most it pays in all.
    pub max_fee: u128,
    /// Most of it that goes to the builder.
    pub tip: u128,
}

/// A signed transaction, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its hash.
    pub hash: B256,
    /// Its EIP-2718 bytes.
    pub raw: Bytes,
}

impl Account {
    /// The account of a secret key; `None` for the few values that are no secp256k1 key.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        PrivateKeySigner::from_bytes(&B256::from(*secret))
            .ok()
            .map(Self)
    }

    /// One of the ten development accounts.
    ///
    /// # Panics
    /// When `index` is above 9.
    pub fn dev(index: usize) -> Self {
        Self::from_secret(&DEV_SECRETS[index]).expect("the development keys are valid keys")
    }

    /// A fresh account that nobody has used.
    pub fn random() -> Self {
        loop {
            // All but about one of 2^127 values are keys.
            if let Some(account) = Self::from_secret(&axolotl_common::crypto::random_bytes()) {
                return account;
            }
        }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// Its secret key.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().0)
    }

    /// A signed type-2 transfer.
    pub fn transfer(
        &self,
        chain_id: u64,
        nonce: u64,
        to: Address,
        value: U256,
        fees: Fees,
    ) -> Signed {
        let transaction = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: TRANSFER_GAS,
            max_fee_per_gas: fees.max_fee,
            max_priority_fee_per_gas: fees.tip,
            to: TxKind::Call(to),
            value,
            ..TxEip1559::default()
        };
        self.sign(transaction)
    }

    /// Signs a transaction of any type.
    pub fn sign<T>(&self, transaction: T) -> Signed
    where
        T: SignableTransaction<Signature>,
        TxEnvelope: From<alloy_consensus::Signed<T>>,
    {
        let signature = self
            .0
            .sign_hash_sync(&transaction.signature_hash())
            .expect("signing with a key in memory does not fail");
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        Signed {
            hash: *envelope.tx_hash(),
            raw: envelope.encoded_2718().into(),
        }
    }
}

impl From<PrivateKeySigner> for Account {
    fn from(signer: PrivateKeySigner) -> Self {
        Self(signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::transaction::SignerRecoverable;
    use alloy_eips::eip2718::Decodable2718;
    use alloy_primitives::keccak256;
    use axolotl_common::genesis::DEV_ACCOUNTS;

    #[test]
    fn the_development_keys_are_those_of_the_genesis() {
        for (index, address) in DEV_ACCOUNTS.iter().enumerate() {
            assert_eq!(Account::dev(index).address().to_string(), *address);
        }
    }

    #[test]
    fn a_transfer_decodes_to_its_signer_and_hash() {
        let account = Account::dev(0);
        let fees = Fees {
            max_fee: 20,
            tip: 1,
        };
        let to = Account::dev(1).address();
        let signed = account.transfer(7777, 3, to, U256::from(5), fees);
        assert_eq!(signed.hash, keccak256(&signed.raw));
        let envelope = TxEnvelope::decode_2718_exact(&signed.raw).unwrap();
        assert_eq!(envelope.recover_signer().unwrap(), account.address());
    }
}

//! Web3 Secret Storage, version 3: a secret key encrypted by a password, as geth and eth-account
//! write and read it.
//!
//! Written: scrypt (N = 2^17, r = 8, p = 1, the least that OWASP recommends; 128 MiB and about half
//! a second), AES-128-CTR, Keccak-256 over half of the derived key and the ciphertext. Read: scrypt
//! and PBKDF2-HMAC-SHA256 with any costs up to those of [`MAX_SCRYPT_BYTES`] and its neighbours; a
//! file that asks for more is refused before it costs anything.

use aes::{
    Aes128,
    cipher::{KeyIvInit, StreamCipher},
};
use alloy_primitives::{Address, keccak256};
use axolotl_common::crypto::random_bytes;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::cli::accounts::Account;

/// Largest keystore file, bytes.
pub const MAX_KEYSTORE_BYTES: u64 = 64 << 10;
/// Most memory that reading a file may take. geth's standard takes a quarter of it.
pub const MAX_SCRYPT_BYTES: u64 = 1 << 30;
/// Most memory times passes of scrypt: about a minute.
const MAX_SCRYPT_WORK: u64 = 8 << 30;
/// Most rounds of PBKDF2: ten times those of eth-account.
const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;
/// Length of the derived key.
const KEY_BYTES: usize = 32;
/// log2 of scrypt's N for new files.
pub const SCRYPT_LOG_N: u8 = 17;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 1;
const CIPHER: &str = "aes-128-ctr";

type Aes128Ctr = ctr::Ctr128BE<Aes128>;

/// Why a keystore gives no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// Not a keystore file.
    #[error("it is no keystore of version 3: {0}")]
    Format(String),
    /// A kind or cost that is not supported.
    #[error("it cannot be opened by this program: {0}")]
    Unsupported(String),
    /// The check sum does not hold.
    #[error("wrong password")]
    WrongPassword,
    /// The password fits, the key does not.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keystore {
    /// Address without `0x`; some writers leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
    #[serde(default)]
    id: String,
    version: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    ciphertext: HexBytes,
    cipherparams: CipherParams,
    #[serde(flatten)]
    kdf: Kdf,
    mac: HexBytes,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CipherParams {
    iv: HexBytes,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt {
        dklen: u32,
        n: u64,
        p: u32,
        r: u32,
        salt: HexBytes,
    },
    Pbkdf2 {
        c: u32,
        dklen: u32,
        prf: String,
        salt: HexBytes,
    },
}

/// Hexadecimal without `0x`, which readers tolerate.
#[derive(Clone, Debug)]
struct HexBytes(Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        hex::decode(text.strip_prefix("0x").unwrap_or(&text))
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl Keystore {
    /// Encrypts the key of an account; `log_n` is scrypt's cost ([`SCRYPT_LOG_N`]).
    ///
    /// # Panics
    /// When `log_n` is above 20.
    pub fn encrypt(account: &Account, password: &str, log_n: u8) -> Self {
        assert!(
            log_n <= 20,
            "costs beyond what this program would read again"
        );
        let salt: [u8; 32] = random_bytes();
        let iv: [u8; 16] = random_bytes();
        let kdf = Kdf::Scrypt {
            dklen: KEY_BYTES as u32,
            n: 1 << log_n,
            p: SCRYPT_P,
            r: SCRYPT_R,
            salt: HexBytes(salt.to_vec()),
        };
        let derived = kdf
            .derive(password)
            .expect("our own costs are within the bounds");
        let mut ciphertext = account.secret().to_vec();
        apply(&derived, &iv, &mut ciphertext);
        let mac = mac(&derived, &ciphertext);
        Self {
            address: Some(hex::encode(account.address())),
            crypto: Crypto {
                cipher: CIPHER.to_owned(),
                ciphertext: HexBytes(ciphertext),
                cipherparams: CipherParams {
                    iv: HexBytes(iv.to_vec()),
                },
                kdf,
                mac: HexBytes(mac.to_vec()),
            },
            id: random_uuid(),
            version: 3,
        }
    }

    /// Reads the text of a keystore file.
    ///
    /// # Errors
    /// [`KeystoreError::Format`].
    pub fn parse(text: &str) -> Result<Self, KeystoreError> {
        let keystore: Self =
            serde_json::from_str(text).map_err(|e| KeystoreError::Format(e.to_string()))?;
        if keystore.version != 3 {
            let why = format!("it says version {}", keystore.version);
            return Err(KeystoreError::Format(why));
        }
        Ok(keystore)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a keystore is JSON");
        text.push('\n');
        text
    }

    /// The address that the file claims; proven only by [`Self::decrypt`].
    pub fn address(&self) -> Option<Address> {
        let text = self.address.as_deref()?;
        text.strip_prefix("0x").unwrap_or(text).parse().ok()
    }

    /// The account inside.
    ///
    /// # Errors
    /// Any [`KeystoreError`].
    pub fn decrypt(&self, password: &str) -> Result<Account, KeystoreError> {
        let crypto = &self.crypto;
        if crypto.cipher != CIPHER {
            return Err(KeystoreError::Unsupported(format!(
                "cipher {:?}",
                crypto.cipher
            )));
        }
        let iv: [u8; 16] = crypto
            .cipherparams
            .iv
            .0
            .as_slice()
            .try_into()
            .map_err(|_| {
                KeystoreError::Format("the initialisation vector is not of 16 bytes".to_owned())
            })?;
        let derived = crypto.kdf.derive(password)?;
        if mac(&derived, &crypto.ciphertext.0)[..] != crypto.mac.0[..] {
            return Err(KeystoreError::WrongPassword);
        }
        let mut secret = Zeroizing::new(crypto.ciphertext.0.clone());
        apply(&derived, &iv, &mut secret);
        let secret: Zeroizing<[u8; 32]> = secret
            .as_slice()
            .try_into()
            .map(Zeroizing::new)
            .map_err(|_| KeystoreError::Damaged("the secret is not of 32 bytes".to_owned()))?;
        let account = Account::from_secret(&secret)
            .ok_or_else(|| KeystoreError::Damaged("the secret is no secp256k1 key".to_owned()))?;
        match self.address() {
            Some(claimed) if claimed != account.address() => Err(KeystoreError::Damaged(format!(
                "it names the address {claimed}, its key belongs to {}",
                account.address()
            ))),
            _ => Ok(account),
        }
    }
}

impl Kdf {
    fn derive(&self, password: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeystoreError> {
        let too_dear = |what: String| Err(KeystoreError::Unsupported(what));
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        match self {
            Self::Scrypt {
                dklen,
                n,
                p,
                r,
                salt,
            } => {
                check_length(*dklen)?;
                let memory = n.saturating_mul(128).saturating_mul(u64::from(*r));
                let work = memory.saturating_mul(u64::from(*p));
                if memory > MAX_SCRYPT_BYTES || work > MAX_SCRYPT_WORK {
                    return too_dear(format!(
                        "scrypt with n = {n}, r = {r}, p = {p} is too costly"
                    ));
                }
                let wrong =
                    || KeystoreError::Format(format!("scrypt with n = {n}, r = {r}, p = {p}"));
                if !n.is_power_of_two() || *n < 2 {
                    return Err(wrong());
                }
                let log_n = n.trailing_zeros() as u8;
                if *r > 0 && u64::from(log_n) >= 16 * u64::from(*r) {
                    return Err(KeystoreError::Unsupported(format!(
                        "scrypt with n = {n}, r = {r}: RFC 7914 wants n below 2^(16 r)"
                    )));
                }
                let params = scrypt::Params::new(log_n, *r, *p, KEY_BYTES).map_err(|_| wrong())?;
                scrypt::scrypt(password.as_bytes(), &salt.0, &params, &mut key[..])
                    .expect("32 bytes are a length that scrypt gives");
            }
            Self::Pbkdf2 {
                c,
                dklen,
                prf,
                salt,
            } => {
                check_length(*dklen)?;
                if prf != "hmac-sha256" {
                    return Err(KeystoreError::Unsupported(format!("PBKDF2 with {prf:?}")));
                }
                if *c > MAX_PBKDF2_ROUNDS {
                    return too_dear(format!("PBKDF2 with {c} rounds is too costly"));
                }
                if *c == 0 {
                    return Err(KeystoreError::Format("PBKDF2 without rounds".to_owned()));
                }
                pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt.0, *c, &mut key[..]);
            }
        }
        Ok(key)
    }
}

fn check_length(dklen: u32) -> Result<(), KeystoreError> {
    if dklen == KEY_BYTES as u32 {
        return Ok(());
    }
    let what = format!("a derived key of {dklen} bytes; expected {KEY_BYTES}");
    Err(KeystoreError::Unsupported(what))
}

/// Encrypts or decrypts in place: in counter mode they are the same.
fn apply(derived: &[u8; KEY_BYTES], iv: &[u8; 16], data: &mut [u8]) {
    let (key, _) = derived.split_at(16);
    let mut cipher = Aes128Ctr::new_from_slices(key, iv).expect("key and vector are of 16 bytes");
    cipher.apply_keystream(data);
}

fn mac(derived: &[u8; KEY_BYTES], ciphertext: &[u8]) -> [u8; 32] {
    let mut message = Zeroizing::new(derived[16..].to_vec());
    message.extend_from_slice(ciphertext);
    keccak256(&message[..]).0
}

/// A random UUID (RFC 9562, version 4).
fn random_uuid() -> String {
    let mut bytes: [u8; 16] = random_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap, for tests only.
    const LOG_N: u8 = 4;

    /// The test vectors of the Web3 Secret Storage Definition. The n of the second is too large for
    /// its r: no program writes such files.
    const SPEC_SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const SPEC_PASSWORD: &str = "testpassword";
    const SPEC_PBKDF2: &str = r#"{"crypto": {"cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2", "kdfparams": {"c": 262144, "dklen": 32, "prf": "hmac-sha256",
        "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}"#;
    const SPEC_SCRYPT: &str = r#"{"crypto": {"cipher": "aes-128-ctr",
        "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf": "scrypt", "kdfparams": {"dklen": 32, "n": 262144, "p": 8, "r": 1,
        "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}"#;

    #[test]
    fn the_vector_of_the_definition_is_opened() {
        let keystore = Keystore::parse(SPEC_PBKDF2).unwrap();
        let account = keystore.decrypt(SPEC_PASSWORD).unwrap();
        assert_eq!(hex::encode(*account.secret()), SPEC_SECRET);
        assert_eq!(
            keystore.decrypt("testpassworD").unwrap_err(),
            KeystoreError::WrongPassword
        );
    }

    #[test]
    fn the_other_vector_breaks_the_rule_of_scrypt_and_is_refused_in_words() {
        let keystore = Keystore::parse(SPEC_SCRYPT).unwrap();
        let error = keystore.decrypt(SPEC_PASSWORD).unwrap_err().to_string();
        assert!(error.contains("RFC 7914"), "{error}");
    }

    /// Written by eth-account 0.14, by each of its key derivations: secret 4c4c…, password `pässword`.
    const ETH_ACCOUNT: [&str; 2] = [
        r#"{"address": "dB00079cad3e665853Bf766eFe26F4C38cdbdCDA", "crypto": {"cipher":
        "aes-128-ctr", "cipherparams": {"iv": "366b5d9e8a99f6158238dbf193917d18"}, "ciphertext":
        "fcf790ea230a62a478b5803b4a7fe321d424632cb1d88321deb19b4359c16753", "kdf": "scrypt",
        "kdfparams": {"dklen": 32, "n": 262144, "r": 8, "p": 1, "salt":
        "cd070814bdcc777e5a5bb62070d7943f"}, "mac":
        "aae45e8794141b9f3a80f524c60398f206dfcae024705b660e1ba1d175d7dc41"}, "id":
        "bbfd0f2f-2390-4d88-9b5e-e1d77c363096", "version": 3}"#,
        r#"{"address": "dB00079cad3e665853Bf766eFe26F4C38cdbdCDA", "crypto": {"cipher":
        "aes-128-ctr", "cipherparams": {"iv": "b6f3fb6527983c261d2b0c21c4b916f7"}, "ciphertext":
        "d8394f28ec374d17b92d53f3ffb8d4b758b516d02e68e5e3519898b02d6a6e68", "kdf": "pbkdf2",
        "kdfparams": {"c": 100000, "dklen": 32, "prf": "hmac-sha256", "salt":
        "c22138aad9b0cbc743dee718cbd737de"}, "mac":
        "1d41eb8023fef641c1c48ac636da18c5992bc533d71872a56bfa9998cdc4f5c3"}, "id":
        "9564a876-cfa1-44d8-80f7-5ee0c61ede05", "version": 3}"#,
    ];
    /// From the tests of geth; password `foobar`.
    const GETH: &str = r#"{"address":"7ef5a6135f1fd6a02593eedc869c6d41d934aef8","crypto":{"cipher":
        "aes-128-ctr","ciphertext":
        "1d0839166e7a15b9c1333fc865d69858b22df26815ccf601b28219b6192974e1","cipherparams":{"iv":
        "8df6caa7ff1b00c4e871f002cb7921ed"},"kdf":"scrypt","kdfparams":{"dklen":32,"n":8,"p":16,
        "r":8,"salt":"e5e6ef3f4ea695f496b643ebd3f75c0aa58ef4070e90c80c5d3fb0241bf1595c"},"mac":
        "6d16dfde774845e4585357f24bce530528bc69f4f84e1e22880d34fa45c273e5"},"id":
        "950077c7-71e3-4c44-a4a1-143919141ed4","version":3}"#;

    #[test]
    fn files_of_geth_and_eth_account_are_opened() {
        for text in ETH_ACCOUNT {
            let account = Keystore::parse(text).unwrap().decrypt("pässword").unwrap();
            assert_eq!(*account.secret(), [0x4c; 32]);
        }
        let geth = Keystore::parse(GETH).unwrap();
        assert_eq!(
            Some(geth.decrypt("foobar").unwrap().address()),
            geth.address()
        );
    }

    #[test]
    fn what_is_written_is_read_and_differs_each_time() {
        let account = Account::dev(3);
        let one = Keystore::encrypt(&account, "pässword", LOG_N);
        let two = Keystore::encrypt(&account, "pässword", LOG_N);
        assert_ne!(one.text(), two.text());
        for keystore in [one, two] {
            let read = Keystore::parse(&keystore.text()).unwrap();
            assert_eq!(read.address(), Some(account.address()));
            assert_eq!(
                read.decrypt("pässword").unwrap().address(),
                account.address()
            );
            assert_eq!(read.decrypt("").unwrap_err(), KeystoreError::WrongPassword);
            assert!(!keystore.text().contains(&hex::encode(*account.secret())));
        }
    }

    #[test]
    fn the_fields_are_those_of_the_definition() {
        let text = Keystore::encrypt(&Account::dev(0), "p", LOG_N).text();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["address"], "f39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        assert_eq!(value["version"], 3);
        assert_eq!(value["crypto"]["cipher"], "aes-128-ctr");
        assert_eq!(value["crypto"]["kdf"], "scrypt");
        assert_eq!(value["crypto"]["kdfparams"]["dklen"], 32);
        for (pointer, digits) in [
            ("/crypto/ciphertext", 64),
            ("/crypto/cipherparams/iv", 32),
            ("/crypto/kdfparams/salt", 64),
            ("/crypto/mac", 64),
            ("/id", 36),
        ] {
            let field = value.pointer(pointer).and_then(|field| field.as_str());
            assert_eq!(field.map(str::len), Some(digits), "{pointer} in {text}");
        }
    }

    #[test]
    fn files_that_ask_for_too_much_are_refused_at_once() {
        let cases = [
            ("\"n\": 262144", "\"n\": 1099511627776", "too costly"),
            ("\"p\": 8", "\"p\": 4000000", "too costly"),
            ("\"r\": 1", "\"r\": 4294967295", "too costly"),
            ("\"n\": 262144", "\"n\": 262143", "scrypt with"),
            ("\"n\": 262144", "\"n\": 0", "scrypt with"),
            ("\"r\": 1", "\"r\": 0", "scrypt with"),
            ("\"dklen\": 32", "\"dklen\": 16", "derived key of 16"),
            ("aes-128-ctr", "aes-256-gcm", "cipher"),
            ("\"version\": 3", "\"version\": 1", "version 1"),
            ("\"iv\": \"83", "\"iv\": \"", "16 bytes"),
        ];
        for (from, to, why) in cases {
            let text = SPEC_SCRYPT.replace(from, to);
            assert_ne!(text, SPEC_SCRYPT, "{from} is not in the vector");
            let error = Keystore::parse(&text)
                .and_then(|keystore| keystore.decrypt(SPEC_PASSWORD).map(drop))
                .unwrap_err();
            assert!(error.to_string().contains(why), "{to}: {error}");
        }
        let rounds = SPEC_PBKDF2.replace("262144", "4000000000");
        let error = Keystore::parse(&rounds).unwrap().decrypt("x").unwrap_err();
        assert!(error.to_string().contains("too costly"), "{error}");
    }

    #[test]
    fn a_key_under_another_address_is_found_out() {
        let other = hex::encode(Account::dev(1).address());
        let mut keystore = Keystore::encrypt(&Account::dev(0), "p", LOG_N);
        keystore.address = Some(other);
        let error = keystore.decrypt("p").unwrap_err();
        assert!(matches!(error, KeystoreError::Damaged(_)), "{error}");
    }
}

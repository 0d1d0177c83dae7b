//! Hostile transactions: each does as much work as the rules allow for its gas, in one way.
//!
//! Shared by the bench `hostile`, which measures the rate of each, and by the cluster test `hostile`, which
//! sends them. A contract repeats its work until little gas is left, then stops: what it changed stays, and
//! has to be hashed.

use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use alloy_primitives::{Address, Signature, U256, hex, keccak256};
use serde_json::{Map, Value, json};

/// Contracts with large storage.
pub const LARGE_CONTRACTS: usize = 10;
/// Gas that a set-code transaction pays for each authorisation, and for being a transaction.
const AUTHORIZATION_GAS: u64 = 25_000;
const TRANSACTION_GAS: u64 = 21_000;
/// What a large transaction may be long, in authorisations of about 110 bytes.
const AUTHORIZATIONS_MAX: u64 = 1_000;

/// One hostile transaction, and the contract that it calls.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it repeats.
    pub name: &'static str,
    /// Code of the contract.
    pub code: Vec<u8>,
    /// Input of the transaction.
    pub input: Vec<u8>,
    /// Its gas.
    pub gas: u64,
    /// Its authorisations (EIP-7702).
    pub authorizations: Vec<SignedAuthorization>,
}

impl Row {
    fn new(name: &'static str, code: Code, input: &[u8]) -> Self {
        Self {
            name,
            code: code.0,
            input: input.to_vec(),
            gas: 0,
            authorizations: Vec::new(),
        }
    }

    /// Where its contract is.
    pub fn address(&self) -> Address {
        address_of(self.name)
    }
}

fn address_of(name: &str) -> Address {
    Address::from_word(keccak256(name))
}

/// Address of one of the contracts with large storage.
pub fn large_contract(n: usize) -> Address {
    address_of(&format!("large contract {n}"))
}

/// The accounts of a genesis that holds these contracts, and those with `slots` slots each.
pub fn alloc(rows: &[Row], slots: u64) -> Map<String, Value> {
    let account =
        |code: &[u8]| json!({"balance": "0x0", "nonce": 1, "code": hex::encode_prefixed(code)});
    let mut alloc: Map<String, Value> = rows
        .iter()
        .map(|row| (row.address().to_string(), account(&row.code)))
        .collect();
    let storage: Map<String, Value> = (1..=slots)
        .map(|slot| (format!("{slot:#x}"), json!("0x1")))
        .collect();
    for n in 0..LARGE_CONTRACTS {
        let mut large = account(&large_code().0);
        large["storage"] = storage.clone().into();
        alloc.insert(large_contract(n).to_string(), large);
    }
    alloc
}

mod op {
    pub(super) const STOP: u8 = 0x00;
    pub(super) const ADD: u8 = 0x01;
    pub(super) const MULMOD: u8 = 0x09;
    pub(super) const EXP: u8 = 0x0a;
    pub(super) const GT: u8 = 0x11;
    pub(super) const SHL: u8 = 0x1b;
    pub(super) const KECCAK256: u8 = 0x20;
    pub(super) const ADDRESS: u8 = 0x30;
    pub(super) const BALANCE: u8 = 0x31;
    pub(super) const CALLDATALOAD: u8 = 0x35;
    pub(super) const CALLDATASIZE: u8 = 0x36;
    pub(super) const CALLDATACOPY: u8 = 0x37;
    pub(super) const CODECOPY: u8 = 0x39;
    pub(super) const BLOCKHASH: u8 = 0x40;
    pub(super) const NUMBER: u8 = 0x43;
    pub(super) const POP: u8 = 0x50;
    pub(super) const MSTORE8: u8 = 0x53;
    pub(super) const SLOAD: u8 = 0x54;
    pub(super) const SSTORE: u8 = 0x55;
    pub(super) const JUMPI: u8 = 0x57;
    pub(super) const GAS: u8 = 0x5a;
    pub(super) const JUMPDEST: u8 = 0x5b;
    pub(super) const TSTORE: u8 = 0x5d;
    pub(super) const MCOPY: u8 = 0x5e;
    pub(super) const PUSH0: u8 = 0x5f;
    pub(super) const DUP1: u8 = 0x80;
    pub(super) const SWAP1: u8 = 0x90;
    pub(super) const LOG4: u8 = 0xa4;
    pub(super) const CREATE: u8 = 0xf0;
    pub(super) const CALL: u8 = 0xf1;
    pub(super) const CREATE2: u8 = 0xf5;
    pub(super) const STATICCALL: u8 = 0xfa;
}

/// EVM code under construction.
#[derive(Clone, Debug, Default)]
struct Code(Vec<u8>);

impl Code {
    fn op(mut self, op: u8) -> Self {
        self.0.push(op);
        self
    }

    fn ops(mut self, ops: &[u8]) -> Self {
        self.0.extend_from_slice(ops);
        self
    }

    fn push(self, number: u64) -> Self {
        let bytes = number.to_be_bytes();
        self.push_bytes(&bytes[number.leading_zeros() as usize / 8..])
    }

    fn push_bytes(mut self, bytes: &[u8]) -> Self {
        self.0.push(op::PUSH0 + bytes.len() as u8);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Repeats `body` while there is more gas than `rest`, then stops.
    fn repeat(self, rest: u64, body: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len() as u64;
        let code = body(self.op(op::JUMPDEST));
        code.push(rest)
            .ops(&[op::GAS, op::GT])
            .push(start)
            .ops(&[op::JUMPI, op::STOP])
    }

    /// Calls `address` with `size` bytes of memory; the answer overwrites the first `out` of them.
    fn static_call(self, address: u64, size: u64, out: u64) -> Self {
        self.push(out)
            .push(0)
            .push(size)
            .push(0)
            .push(address)
            .ops(&[op::GAS, op::STATICCALL, op::POP])
    }

    /// Calls a contract, or this one, with so much gas, or all, and with `size` bytes of memory.
    fn call(self, address: Option<Address>, gas: Option<u64>, size: u64) -> Self {
        let code = self.push(0).push(0).push(size).push(0).push(0);
        let code = match address {
            Some(address) => code.push_bytes(address.as_slice()),
            None => code.op(op::ADDRESS),
        };
        let code = match gas {
            Some(gas) => code.push(gas),
            None => code.op(op::GAS),
        };
        code.ops(&[op::CALL, op::POP])
    }

    /// A number on the stack that no earlier block began to count from.
    fn counter(self) -> Self {
        self.op(op::NUMBER).push(64).op(op::SHL)
    }

    fn count(self) -> Self {
        self.push(1).op(op::ADD)
    }
}

/// Reads its slots one after the other; with an input of two words it writes one.
fn large_code() -> Code {
    // Where the writing part begins is known once the reading part is there.
    let mut code = Code::default()
        .op(op::CALLDATASIZE)
        .push(u64::from(u8::MAX))
        .op(op::JUMPI)
        .op(op::PUSH0)
        .repeat(5_000, |code| {
            code.ops(&[op::DUP1, op::SLOAD, op::POP]).count()
        });
    code.0[2] = code.0.len() as u8;
    code.op(op::JUMPDEST)
        .push(32)
        .op(op::CALLDATALOAD)
        .push(0)
        .ops(&[op::CALLDATALOAD, op::SSTORE, op::STOP])
}

/// A loop over a precompiled contract whose input is `input` `times` times over.
fn precompile(
    name: &'static str,
    address: u64,
    input: &[u8],
    times: u64,
    out: u64,
    rest: u64,
) -> Row {
    let mut code = Code::default();
    for n in 0..times {
        code = code
            .op(op::CALLDATASIZE)
            .push(0)
            .push(n * input.len() as u64)
            .op(op::CALLDATACOPY);
    }
    let size = times * input.len() as u64;
    Row::new(
        name,
        code.repeat(rest, |code| code.static_call(address, size, out)),
        input,
    )
}

/// A loop over a precompiled contract that takes any bytes: `size` zeros.
fn of_zeros(name: &'static str, address: u64, size: u64, rest: u64) -> Row {
    let code = Code::default().repeat(rest, |code| code.static_call(address, size, 32));
    Row::new(name, code, &[])
}

/// Input of MODEXP: base and modulus of `size` bytes that are all ones but for the last bit.
fn modexp_input(size: usize, exponent: &[u8], odd: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for length in [size, exponent.len(), size] {
        input.extend(U256::from(length).to_be_bytes::<32>());
    }
    let mut modulus = vec![0xff; size];
    modulus[size - 1] = if odd { 0xff } else { 0xfe };
    let mut base = vec![0xff; size];
    base[size - 1] = 0xfd;
    input.extend(base);
    input.extend_from_slice(exponent);
    input.extend(modulus);
    input
}

/// Loops over MODEXP with operands of these bytes.
pub fn modexp(
    name: &'static str,
    (size, exponent): (usize, usize),
    first: u8,
    odd: bool,
    rest: u64,
) -> Row {
    let mut bits = vec![0xff; exponent];
    bits[0] = first;
    precompile(name, 5, &modexp_input(size, &bits, odd), 1, 0, rest)
}

/// Coordinates of points, 48 bytes each, as EIP-2537 writes them: 64.
fn padded(coordinates: &[[u8; 48]]) -> Vec<u8> {
    let pad = |coordinate: &[u8; 48]| [&[0; 16], &coordinate[..]].concat();
    coordinates.iter().flat_map(pad).collect()
}

const BLS_G1: [[u8; 48]; 2] = [
    hex!(
        "17f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb"
    ),
    hex!(
        "08b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1"
    ),
];
const BLS_G2: [[u8; 48]; 4] = [
    hex!(
        "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8"
    ),
    hex!(
        "13e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
    ),
    hex!(
        "0ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801"
    ),
    hex!(
        "0606c4a02ea734cc32acd2b02bc28b99cb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79be"
    ),
];
/// The generator of alt_bn128's second group (EIP-197).
const BN_G2: [u8; 128] = hex!(
    "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2"
    "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed"
    "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b"
    "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa"
);
/// Generator of secp256k1, its x: the r of signatures that recover to some address.
const SECP256K1_X: [u8; 32] =
    hex!("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798");
/// A proof of EIP-4844's test vectors: versioned hash, z, y, commitment, proof.
const KZG: [u8; 192] = hex!(
    "01e798154708fe7789429634053cbf9f99b619f9f084048927333fce637f549b"
    "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000000"
    "1522a4a7f34e1ea350ae07c29c96c7e79655aa926122e95fe69fcbd932ca49e9"
    "8f59a8d2a1a625a17f3fea0fe5eb8c896db3764f3185481bc22f91b4aaffcca25f26936857bc3a7c2539ea8ec3a952b7"
    "a62ad71d14c5719385c0686f1871430475bf3a00f0aa3f7b8dd99a9abc2160744faf0070725e00b60ad9a026a15b1a8c"
);
/// The first vector of EIP-7951.
const P256: [u8; 160] = hex!(
    "4cee90eb86eaa050036147a12d49004b6b9c72bd725d39d4785011fe190f0b4d"
    "a73bd4903f0ce3b639bbbf6e8e80d16931ff4bcf5993d58468e8fb19086e8cac"
    "36dbcd03009df8c59286b162af3bd7fcc0450c9aa81be5d10d312af6c66b1d60"
    "4aebd3099c618202fcfe16ae7770b0c49ab5eadf74b754204a3bb6060e44eff3"
    "7618b065f9832de4ca6ca971a7a1adc826d0f7c00181a5fb2ddf79ae00b4e10e"
);

fn word(number: u64) -> [u8; 32] {
    U256::from(number).to_be_bytes()
}

/// The precompiled contracts, each at the input that takes longest for its gas.
fn precompiles() -> Vec<Row> {
    const ALL: [u8; 32] = [0xff; 32];
    let signature = [&word(1)[..], &word(27), &SECP256K1_X, &word(7)].concat();
    let bn = [word(1), word(2)].concat();
    let (g1, g2) = (padded(&BLS_G1), padded(&BLS_G2));
    let blake2f = [&1_000_000u32.to_be_bytes()[..], &[0x5a; 208], &[1]].concat();
    vec![
        precompile("ecrecover", 0x01, &signature, 1, 0, 10_000),
        of_zeros("sha256 of 4 KiB", 0x02, 4_096, 10_000),
        of_zeros("ripemd160 of 4 KiB", 0x03, 4_096, 50_000),
        of_zeros("identity of 4 KiB", 0x04, 4_096, 10_000),
        modexp("modexp 32 bytes", (32, 32), 0xff, true, 20_000),
        modexp("modexp 1024 bytes", (1_024, 1), 3, true, 200_000),
        precompile("alt_bn128 add", 0x06, &bn, 2, 64, 5_000),
        precompile(
            "alt_bn128 mul",
            0x07,
            &[&bn[..], &ALL].concat(),
            1,
            0,
            20_000,
        ),
        precompile(
            "alt_bn128 pairing",
            0x08,
            &[&bn[..], &BN_G2].concat(),
            1,
            0,
            200_000,
        ),
        precompile("blake2f, 1,000,000 rounds", 0x09, &blake2f, 1, 0, 1_200_000),
        precompile("KZG point evaluation", 0x0a, &KZG, 1, 0, 100_000),
        precompile("BLS12-381 G1 add", 0x0b, &g1, 2, 128, 5_000),
        precompile(
            "BLS12-381 G1 msm of 1",
            0x0c,
            &[&g1[..], &ALL].concat(),
            1,
            0,
            50_000,
        ),
        precompile(
            "BLS12-381 G1 msm of 128",
            0x0c,
            &[&g1[..], &ALL].concat(),
            128,
            0,
            900_000,
        ),
        precompile("BLS12-381 G2 add", 0x0d, &g2, 2, 256, 5_000),
        precompile(
            "BLS12-381 G2 msm of 1",
            0x0e,
            &[&g2[..], &ALL].concat(),
            1,
            0,
            50_000,
        ),
        precompile(
            "BLS12-381 G2 msm of 128",
            0x0e,
            &[&g2[..], &ALL].concat(),
            128,
            0,
            1_700_000,
        ),
        precompile(
            "BLS12-381 pairing",
            0x0f,
            &[&g1[..], &g2].concat(),
            1,
            0,
            150_000,
        ),
        precompile("BLS12-381 map to G1", 0x10, &g1[..64], 1, 0, 20_000),
        precompile("BLS12-381 map to G2", 0x11, &g2[..128], 1, 0, 50_000),
        precompile("P-256 verification", 0x100, &P256, 1, 0, 20_000),
    ]
}

/// Instructions, each in a loop.
fn instructions() -> Vec<Row> {
    const INIT_CODE: u64 = 49_152;
    let start = Code::default;
    let init = |name, salted: bool| {
        let create = |code: Code| {
            let code = if salted {
                code.counter().ops(&[op::GAS, op::ADD])
            } else {
                code
            };
            let create = if salted { op::CREATE2 } else { op::CREATE };
            code.push(INIT_CODE).push(0).push(0).ops(&[create, op::POP])
        };
        // Jump destinations without end after a STOP: the slowest to look through, nothing to run.
        let program = |at: u64| {
            start()
                .push(INIT_CODE)
                .push_bytes(&(at as u16).to_be_bytes())
                .push(0)
                .op(op::CODECOPY)
                .ops(&[op::PUSH0, op::PUSH0, op::MSTORE8])
                .repeat(100_000, create)
        };
        let mut code = program(program(0).0.len() as u64);
        code.0
            .resize(code.0.len() + INIT_CODE as usize, op::JUMPDEST);
        Row::new(name, code, &[])
    };
    vec![
        Row::new(
            "KECCAK256 of 4 KiB",
            start().repeat(5_000, |code| {
                code.push(4_096).push(0).ops(&[op::KECCAK256, op::POP])
            }),
            &[],
        ),
        Row::new(
            "EXP of 32 bytes",
            start().repeat(5_000, |code| {
                code.push_bytes(&[0xff; 32])
                    .push_bytes(&[0xfb; 32])
                    .ops(&[op::EXP, op::POP])
            }),
            &[],
        ),
        Row::new(
            "MULMOD",
            start().push_bytes(&[0xfd; 32]).repeat(5_000, |mut code| {
                for _ in 0..100 {
                    code = code
                        .push_bytes(&[0xef; 32])
                        .ops(&[op::SWAP1])
                        .push_bytes(&[0xf9; 32])
                        .op(op::MULMOD);
                }
                code
            }),
            &[],
        ),
        Row::new(
            "MCOPY of 32 KiB",
            start().repeat(50_000, |code| {
                code.push(32_768).push(1).push(0).op(op::MCOPY)
            }),
            &[],
        ),
        Row::new(
            "BLOCKHASH",
            start().repeat(5_000, |mut code| {
                for back in 1..=100 {
                    // NUMBER - back, by adding its complement
                    code = code
                        .op(op::NUMBER)
                        .push_bytes(&(U256::MAX - U256::from(back - 1)).to_be_bytes::<32>())
                        .ops(&[op::ADD, op::BLOCKHASH, op::POP]);
                }
                code
            }),
            &[],
        ),
        Row::new(
            "SSTORE of fresh slots",
            start().counter().repeat(30_000, |code| {
                code.ops(&[op::DUP1, op::DUP1, op::SSTORE]).count()
            }),
            &[],
        ),
        Row::new(
            "TSTORE",
            start().push(1).repeat(5_000, |code| {
                code.ops(&[op::DUP1, op::DUP1, op::TSTORE]).count()
            }),
            &[],
        ),
        Row::new(
            "BALANCE of cold accounts",
            start().counter().repeat(5_000, |code| {
                code.ops(&[op::DUP1, op::BALANCE, op::POP]).count()
            }),
            &[],
        ),
        Row::new(
            "LOG4 of 32 KiB",
            start().repeat(300_000, |code| {
                code.ops(&[op::PUSH0; 4]).push(32_768).push(0).op(op::LOG4)
            }),
            &[],
        ),
        init("CREATE of 48 KiB", false),
        init("CREATE2 of 48 KiB", true),
        Row::new(
            "calls as deep as the gas goes",
            start().repeat(5_000, |code| code.call(None, None, 0)),
            &[],
        ),
        Row::new(
            "memory in every frame of a deep call",
            start()
                .push(0)
                .push(130_000)
                .op(op::MSTORE8)
                .repeat(60_000, |code| code.call(None, None, 0)),
            &[],
        ),
    ]
}

/// Transactions that read and write the contracts with large storage.
fn storage(gas: u64) -> Vec<Row> {
    let share = gas / LARGE_CONTRACTS as u64 - 10_000;
    let mut read = Code::default();
    let mut write =
        Code::default().ops(&[op::CALLDATASIZE, op::PUSH0, op::PUSH0, op::CALLDATACOPY]);
    for n in 0..LARGE_CONTRACTS {
        read = read.call(Some(large_contract(n)), Some(share), 0);
        write = write.call(Some(large_contract(n)), Some(100_000), 64);
    }
    let slot_and_value = [word(50_000), word(2)].concat();
    vec![
        Row::new("cold SLOAD in ten large contracts", read, &[]),
        Row::new(
            "one slot in each of ten large contracts",
            write,
            &slot_and_value,
        ),
    ]
}

/// Authorisations of as many accounts as the gas is for, none of which was there before.
fn authorizations(gas: u64) -> Row {
    let mut row = Row::new(
        "authorisations (EIP-7702)",
        Code::default().op(op::STOP),
        &[],
    );
    let count = ((gas - TRANSACTION_GAS) / AUTHORIZATION_GAS).min(AUTHORIZATIONS_MAX);
    row.authorizations = (1..=count)
        .map(|n| {
            // No key signed this; it recovers to an address all the same.
            let r = U256::from_be_bytes(SECP256K1_X);
            let authorization = Authorization {
                chain_id: U256::ZERO,
                address: large_contract(0),
                nonce: 0,
            };
            authorization.into_signed(Signature::new(r, U256::from(n), false))
        })
        .collect();
    row
}

/// All rows, each with this gas.
pub fn rows(gas: u64) -> Vec<Row> {
    let mut rows = precompiles();
    rows.extend(instructions());
    rows.extend(storage(gas));
    rows.push(authorizations(gas));
    for row in &mut rows {
        row.gas = gas;
    }
    // A small transaction: it pays for ten writes only.
    for row in rows
        .iter_mut()
        .filter(|row| row.name.starts_with("one slot"))
    {
        row.gas = 1_200_000;
    }
    rows
}

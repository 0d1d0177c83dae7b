"""What the tests share: nodes, accounts, waiting, and Ethereum's hashes recomputed from scratch."""

import os
import time
from pathlib import Path

import rlp
import vyper
from eth_account import Account
from eth_utils import keccak
from hexbytes import HexBytes
from vyper.compiler.settings import Settings
from web3 import Web3
from web3.exceptions import TransactionNotFound

MNEMONIC = "test test test test test test test test test test test junk"
DEADLINE = 30.0
URLS = [url for url in os.environ.get("AXOLOTL_RPC_URLS", "").split(",") if url]
NODES = [Web3(Web3.HTTPProvider(url, request_kwargs={"timeout": 20})) for url in URLS]

Account.enable_unaudited_hdwallet_features()


def dev_account(index):
    """One of the ten prefunded accounts of the development genesis."""
    return Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")


def wait_until(what, condition, deadline=DEADLINE):
    """Asks again until `condition` gives something true; says what it saw last when it does not."""
    end = time.monotonic() + deadline
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline} s: {what}; last seen: {seen!r}")
        time.sleep(0.02)


def level(height):
    """Waits until every node shows the block at `height`."""
    for w3 in NODES:
        wait_until(f"{w3.provider.endpoint_uri} is below {height}", lambda: w3.eth.block_number >= height)


def receipt(w3, tx_hash):
    """The receipt of a transaction from this node, when all nodes have reached its block: what is
    asked from another node afterwards is not asked too early."""

    def look():
        try:
            return w3.eth.get_transaction_receipt(tx_hash)
        except TransactionNotFound:
            return None

    found = wait_until(f"no receipt of {HexBytes(tx_hash).to_0x_hex()}", look)
    level(found["blockNumber"])
    return found


def fees(w3):
    """Fee fields of a type-2 transaction that stays valid while the base fee rises."""
    tip = w3.eth.max_priority_fee
    base_fee = w3.eth.get_block("latest")["baseFeePerGas"]
    return {"maxPriorityFeePerGas": tip, "maxFeePerGas": 2 * base_fee + tip}


def send(w3, account, **fields):
    """Signs and sends; the missing fields are asked from the node, as a wallet does."""
    tx = {"chainId": w3.eth.chain_id, "value": 0, **fields}
    if "gasPrice" not in tx and "maxFeePerGas" not in tx:
        tx.update(fees(w3))
    if "nonce" not in tx:
        tx["nonce"] = w3.eth.get_transaction_count(account.address, "pending")
    if "gas" not in tx:
        asked = {k: v for k, v in tx.items() if k in ("to", "value", "data", "accessList")}
        tx["gas"] = w3.eth.estimate_gas({"from": account.address, **asked})
    return w3.eth.send_raw_transaction(account.sign_transaction(tx).raw_transaction)


def new_account(w3, ether=10, funder=0):
    """A fresh account with some ether, so that tests do not share nonces."""
    account = Account.create()
    tx_hash = send(w3, dev_account(funder), to=account.address, value=Web3.to_wei(ether, "ether"))
    assert receipt(w3, tx_hash)["status"] == 1
    return account


def compile_token():
    """ABI and creation code of `token.vy`."""
    source = Path(__file__).with_name("token.vy").read_text()
    settings = Settings(evm_version="prague")
    return vyper.compile_code(source, output_formats=["abi", "bytecode"], settings=settings)


# --- Ethereum's hashes -------------------------------------------------------------------------


def number(value):
    """Big-endian without leading zeros, as RLP wants numbers."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def header_hash(block):
    """Hash of a block, from the fields of its header in Prague's order."""
    fields = [
        block["parentHash"],
        block["sha3Uncles"],
        HexBytes(block["miner"]),
        block["stateRoot"],
        block["transactionsRoot"],
        block["receiptsRoot"],
        block["logsBloom"],
        number(block["difficulty"]),
        number(block["number"]),
        number(block["gasLimit"]),
        number(block["gasUsed"]),
        number(block["timestamp"]),
        block["extraData"],
        block["mixHash"],
        block["nonce"],
        number(block["baseFeePerGas"]),
        block["withdrawalsRoot"],
        number(block["blobGasUsed"]),
        number(block["excessBlobGas"]),
        block["parentBeaconBlockRoot"],
        block["requestsHash"],
    ]
    return keccak(rlp.encode([bytes(HexBytes(field)) for field in fields]))


def access_list(tx):
    return [
        [bytes(HexBytes(entry["address"])), [bytes(HexBytes(key)) for key in entry["storageKeys"]]]
        for entry in tx.get("accessList", [])
    ]


def authorization(entry):
    """An EIP-7702 authorization. web3.py leaves some of its numbers as hexadecimal text."""
    value = {k: v if isinstance(v, int) else int.from_bytes(HexBytes(v), "big") for k, v in entry.items()}
    address = value["address"].to_bytes(20, "big")
    return [number(value["chainId"]), address, *(number(value[k]) for k in ("nonce", "yParity", "r", "s"))]


def encode_transaction(tx):
    """EIP-2718 encoding of a transaction, from the fields that a node tells."""
    to = bytes(HexBytes(tx["to"])) if tx.get("to") else b""
    data = bytes(HexBytes(tx["input"]))
    tail = [number(tx["gas"]), to, number(tx["value"]), data]
    rs = [number(int.from_bytes(HexBytes(tx[key]), "big")) for key in ("r", "s")]
    if tx["type"] == 0:
        return rlp.encode([number(tx["nonce"]), number(tx["gasPrice"]), *tail, number(tx["v"]), *rs])
    head = [number(tx["chainId"]), number(tx["nonce"])]
    if tx["type"] == 1:
        prices = [number(tx["gasPrice"])]
    else:
        prices = [number(tx["maxPriorityFeePerGas"]), number(tx["maxFeePerGas"])]
    fields = [*head, *prices, *tail, access_list(tx)]
    if tx["type"] == 4:
        fields.append([authorization(entry) for entry in tx["authorizationList"]])
    return bytes([tx["type"]]) + rlp.encode([*fields, number(tx["v"]), *rs])


def encode_receipt(receipt):
    """EIP-2718 encoding of a receipt."""
    logs = [
        [bytes(HexBytes(log["address"])), [bytes(t) for t in log["topics"]], bytes(HexBytes(log["data"]))]
        for log in receipt["logs"]
    ]
    fields = [number(receipt["status"]), number(receipt["cumulativeGasUsed"]), bytes(receipt["logsBloom"]), logs]
    kind = bytes([receipt["type"]]) if receipt["type"] else b""
    return kind + rlp.encode(fields)


def nibbles(data):
    return [n for byte in data for n in (byte >> 4, byte & 15)]


def compact(path, leaf):
    """Hex-prefix encoding (Yellow Paper, appendix C)."""
    flag = (2 if leaf else 0) + len(path) % 2
    path = [flag, *path] if len(path) % 2 else [flag, 0, *path]
    return bytes(path[i] << 4 | path[i + 1] for i in range(0, len(path), 2))


def trie_node(items):
    """A node of the Merkle-Patricia trie over (nibbles, value) pairs."""
    if len(items) == 1:
        path, value = items[0]
        return [compact(path, True), value]
    shared = 0
    while all(len(p) > shared for p, _ in items) and len({p[shared] for p, _ in items}) == 1:
        shared += 1
    if shared:
        below = trie_node([(path[shared:], value) for path, value in items])
        return [compact(items[0][0][:shared], False), reference(below)]
    branch = [b""] * 17
    for nibble in range(16):
        below = [(path[1:], value) for path, value in items if path and path[0] == nibble]
        if below:
            branch[nibble] = reference(trie_node(below))
    branch[16] = next((value for path, value in items if not path), b"")
    return branch


def reference(node):
    encoded = rlp.encode(node)
    return node if len(encoded) < 32 else keccak(encoded)


def list_root(values):
    """Root of the trie over a list, keyed by RLP of the index."""
    if not values:
        return keccak(rlp.encode(b""))
    items = [(nibbles(rlp.encode(number(i))), value) for i, value in enumerate(values)]
    return keccak(rlp.encode(trie_node(items)))

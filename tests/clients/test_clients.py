"""An unmodified web3.py against a running chain of four nodes.

AXOLOTL_RPC_URLS: the nodes' JSON-RPC addresses, separated by commas.
AXOLOTL_CHAIN_ID: the chain id, 7777 by default.
"""

import json
import os
import subprocess

import pytest
from eth_account import Account
from eth_utils import keccak
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError

from chain import (
    NODES,
    compile_token,
    dev_account,
    encode_receipt,
    encode_transaction,
    fees,
    header_hash,
    level,
    list_root,
    new_account,
    receipt,
    send,
    wait_until,
)

CHAIN_ID = int(os.environ.get("AXOLOTL_CHAIN_ID", "7777"))
SUPPLY = 1_000_000 * 10**18


@pytest.fixture(scope="session")
def nodes():
    assert NODES, "AXOLOTL_RPC_URLS names no node"
    for w3 in NODES:
        assert w3.is_connected(), f"{w3.provider.endpoint_uri} does not answer"
    return NODES


@pytest.fixture
def pick(nodes):
    """pick(k): the k-th node, counted round."""
    return lambda k: nodes[k % len(nodes)]


@pytest.fixture(scope="session")
def token(nodes):
    """A token deployed through the first node: its contract object factory and its owner."""
    w3 = nodes[0]
    compiled = compile_token()
    owner = new_account(w3)
    factory = w3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
    tx = factory.constructor(SUPPLY).build_transaction(
        {"from": owner.address, "nonce": w3.eth.get_transaction_count(owner.address)}
    )
    tx_hash = w3.eth.send_raw_transaction(owner.sign_transaction(tx).raw_transaction)
    deployed = receipt(w3, tx_hash)
    assert deployed["status"] == 1 and deployed["contractAddress"]

    class Token:
        abi = compiled["abi"]
        address = deployed["contractAddress"]
        block = deployed["blockNumber"]

        def at(self, w3):
            return w3.eth.contract(address=self.address, abi=self.abi)

        def transfer(self, w3, to, value):
            data = self.at(w3).encode_abi("transfer", [to, value])
            return receipt(w3, send(w3, owner, to=self.address, data=data))

    Token.owner = owner
    return Token()


def refused(w3, raw):
    """What a node says to a raw transaction that it must not take."""
    with pytest.raises(Web3RPCError) as caught:
        w3.eth.send_raw_transaction(raw)
    error = caught.value.rpc_response["error"]
    return error["code"], error["message"]


def call(w3, method, *params):
    return w3.provider.make_request(method, list(params))


# --- the chain ---------------------------------------------------------------------------------


def test_all_nodes_are_of_one_chain(nodes):
    assert {w3.eth.chain_id for w3 in nodes} == {CHAIN_ID}
    assert {w3.net.version for w3 in nodes} == {str(CHAIN_ID)}
    assert len({w3.eth.get_block(0)["hash"] for w3 in nodes}) == 1
    for w3 in nodes:
        assert w3.client_version.startswith("Axolotl/")
        assert w3.net.listening is True
        assert len(w3.eth.accounts) == 0
        assert w3.eth.gas_price > 0


def test_blocks_are_the_same_on_all_nodes(nodes, token):
    head = min(w3.eth.block_number for w3 in nodes)
    for height in range(max(0, head - 20), head + 1):
        blocks = [w3.eth.get_block(height, full_transactions=True) for w3 in nodes]
        assert all(dict(block) == dict(blocks[0]) for block in blocks), height
        by_hash = nodes[-1].eth.get_block(blocks[0]["hash"], full_transactions=True)
        assert dict(by_hash) == dict(blocks[0])
        receipts = [w3.eth.get_block_receipts(height) for w3 in nodes]
        assert all(r == receipts[0] for r in receipts), height


def test_hashes_follow_ethereums_rules(nodes, pick, token):
    token.transfer(pick(1), Account.create().address, 5)
    w3 = pick(2)
    head = w3.eth.block_number
    with_transactions = 0
    parent = None
    for height in range(0 if head < 60 else head - 60, head + 1):
        block = w3.eth.get_block(height, full_transactions=True)
        assert header_hash(block) == bytes(block["hash"]), f"header of block {height}"
        if parent is not None:
            assert block["parentHash"] == parent["hash"]
            assert block["timestamp"] >= parent["timestamp"]
        parent = block
        raw = []
        for tx in block["transactions"]:
            raw.append(encode_transaction(tx))
            assert keccak(raw[-1]) == bytes(tx["hash"]), f"transaction of block {height}"
        assert list_root(raw) == bytes(block["transactionsRoot"]), f"block {height}"
        receipts = w3.eth.get_block_receipts(height)
        root = list_root([encode_receipt(r) for r in receipts])
        assert root == bytes(block["receiptsRoot"]), f"block {height}"
        with_transactions += bool(raw)
    assert with_transactions > 0, "no block held a transaction: nothing was shown"


def test_tags_name_final_blocks(pick):
    w3 = pick(1)
    for tag in ("latest", "safe", "finalized", "pending"):
        low = w3.eth.block_number
        block = w3.eth.get_block(tag)
        assert low <= block["number"] <= w3.eth.block_number, tag
    assert w3.eth.get_block("earliest")["number"] == 0
    beyond = w3.eth.block_number + 1_000_000
    assert call(w3, "eth_getBlockByNumber", hex(beyond), False)["result"] is None
    assert call(w3, "eth_getBlockByHash", "0x" + "ab" * 32, False)["result"] is None


# --- transactions of each type -----------------------------------------------------------------


def kinds(w3):
    price = w3.eth.gas_price * 2
    target = Account.create().address
    entry = {"address": target, "storageKeys": ["0x" + "00" * 32]}
    return [
        (0, {"gasPrice": price}),
        (1, {"gasPrice": price, "accessList": [entry]}),
        (2, fees(w3)),
        (2, {**fees(w3), "accessList": [entry]}),
    ]


@pytest.mark.parametrize("case", range(4))
def test_transfers_of_every_type(nodes, pick, case):
    sender_node, reader = pick(case), pick(case + 1)
    sender = new_account(sender_node, funder=case)
    target = Account.create().address
    kind, price = kinds(sender_node)[case]
    tx = {"to": target, "value": 12_345, "nonce": 0, "gas": 40_000, "chainId": CHAIN_ID, **price}
    signed = sender.sign_transaction(tx)
    before = sender_node.eth.get_balance(sender.address)
    tx_hash = sender_node.eth.send_raw_transaction(signed.raw_transaction)
    assert bytes(tx_hash) == keccak(signed.raw_transaction)

    done = receipt(sender_node, tx_hash)
    assert done["status"] == 1 and done["type"] == kind
    assert done["from"] == sender.address and done["to"] == target
    assert done["contractAddress"] is None
    assert all(receipt(w3, tx_hash) == done for w3 in nodes)

    seen = reader.eth.get_transaction(tx_hash)
    assert seen["type"] == kind and seen["value"] == 12_345 and seen["nonce"] == 0
    assert encode_transaction(seen) == bytes(signed.raw_transaction)
    assert call(reader, "eth_getRawTransactionByHash", tx_hash.to_0x_hex())["result"] == signed.raw_transaction.to_0x_hex()
    by_index = reader.eth.get_transaction_by_block(done["blockNumber"], done["transactionIndex"])
    assert by_index == seen
    by_index = reader.eth.get_transaction_by_block(done["blockHash"], done["transactionIndex"])
    assert by_index == seen

    paid = done["gasUsed"] * done["effectiveGasPrice"]
    for w3 in nodes:
        assert w3.eth.get_balance(target) == 12_345
        assert w3.eth.get_balance(sender.address) == before - paid - 12_345
        assert w3.eth.get_transaction_count(sender.address) == 1
    # The state before the transfer is still there.
    assert reader.eth.get_balance(target, done["blockNumber"] - 1) == 0


def test_an_account_takes_code_by_a_set_code_transaction(nodes, pick, token):
    w3 = pick(3)
    account = new_account(w3)
    authorization = account.sign_authorization({"chainId": CHAIN_ID, "address": token.address, "nonce": 1})
    done = receipt(
        w3,
        send(w3, account, nonce=0, to=account.address, gas=120_000, authorizationList=[authorization]),
    )
    assert done["type"] == 4 and done["status"] in (0, 1)
    seen = pick(0).eth.get_transaction(done["transactionHash"])
    assert keccak(encode_transaction(seen)) == bytes(done["transactionHash"])
    delegation = HexBytes("0xef0100") + HexBytes(token.address)
    assert w3.eth.get_code(account.address) == delegation
    # Such an account may still send.
    assert receipt(w3, send(w3, account, to=Account.create().address, value=1))["status"] == 1


def test_the_pending_nonce_counts_what_waits(nodes, pick):
    w3 = pick(0)
    account = new_account(w3)
    target = Account.create().address
    hashes = []
    for expected in range(5):
        assert w3.eth.get_transaction_count(account.address, "pending") == expected
        hashes.append(send(w3, account, nonce=expected, to=target, value=1, gas=21_000))
    assert w3.eth.get_transaction_count(account.address, "pending") == 5
    for tx_hash in hashes:
        assert receipt(w3, tx_hash)["status"] == 1
    assert w3.eth.get_transaction_count(account.address, "latest") == 5
    assert {w3.eth.get_balance(target) for w3 in nodes} == {5}


def test_a_waiting_transaction_can_be_seen(pick):
    w3 = pick(2)
    account = new_account(w3)
    tx_hash = send(w3, account, nonce=3, to=account.address, gas=21_000)
    waiting = w3.eth.get_transaction(tx_hash)
    assert waiting["blockNumber"] is None and waiting["nonce"] == 3
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction_receipt(tx_hash)
    for nonce in range(3):
        send(w3, account, nonce=nonce, to=account.address, gas=21_000)
    assert receipt(w3, tx_hash)["status"] == 1


# --- a contract --------------------------------------------------------------------------------


def test_the_token_answers_the_same_on_all_nodes(nodes, token):
    for w3 in nodes:
        contract = token.at(w3)
        assert len(w3.eth.get_code(token.address)) > 100
        assert contract.functions.name().call() == "Axolotl Test"
        assert contract.functions.totalSupply().call() == SUPPLY
        assert int.from_bytes(w3.eth.get_storage_at(token.address, 0), "big") == SUPPLY
    empty = {bytes(w3.eth.get_code(Account.create().address)) for w3 in nodes}
    assert empty == {b""}


def test_transfers_emit_logs_that_every_node_finds(nodes, pick, token):
    target = Account.create().address
    first = token.transfer(pick(1), target, 70)
    second = token.transfer(pick(2), target, 7)
    assert first["gasUsed"] <= first["cumulativeGasUsed"]
    for w3 in nodes:
        contract = token.at(w3)
        assert contract.functions.balanceOf(target).call() == 77
        (event,) = contract.events.Transfer().process_receipt(first)
        assert event["args"]["receiver"] == target and event["args"]["value"] == 70
        found = contract.events.Transfer().get_logs(
            from_block=token.block, argument_filters={"receiver": target}
        )
        assert [log["args"]["value"] for log in found] == [70, 7]
        assert [log["transactionHash"] for log in found] == [
            first["transactionHash"],
            second["transactionHash"],
        ]
        in_block = w3.eth.get_logs({"blockHash": first["blockHash"], "address": token.address})
        assert first["logs"][0] in in_block
        nothing = w3.eth.get_logs(
            {"fromBlock": token.block, "address": token.address, "topics": ["0x" + "11" * 32]}
        )
        assert nothing == []


def test_reverts_tell_their_reason(pick, token):
    w3 = pick(3)
    contract = token.at(w3)
    poor = Account.create().address
    transfer = contract.functions.transfer(token.owner.address, 1)
    with pytest.raises(ContractLogicError, match="execution reverted: insufficient balance"):
        transfer.call({"from": poor})
    with pytest.raises(ContractLogicError, match="execution reverted: insufficient balance"):
        transfer.estimate_gas({"from": poor})
    request = {"from": poor, "to": token.address, "data": transfer._encode_transaction_data()}
    error = call(w3, "eth_call", request, "latest")["error"]
    assert error["code"] == 3
    assert error["data"].startswith("0x08c379a0")

    # Sent all the same it is mined as failed, costs gas, and changes nothing.
    account = new_account(w3)
    failed = receipt(w3, send(w3, account, to=token.address, data=request["data"], gas=100_000))
    assert failed["status"] == 0 and failed["logs"] == []
    assert contract.functions.balanceOf(account.address).call() == 0


def test_estimates_are_enough_and_not_much_more(pick, token):
    w3 = pick(1)
    assert w3.eth.estimate_gas({"from": dev_account(0).address, "to": Account.create().address, "value": 1}) == 21_000
    target = Account.create().address
    transfer = token.at(w3).functions.transfer(target, 3)
    estimate = transfer.estimate_gas({"from": token.owner.address})
    done = token.transfer(w3, target, 3)
    assert done["status"] == 1
    assert done["gasUsed"] <= estimate <= done["gasUsed"] * 1.1


def test_calls_can_pretend(pick, token):
    w3 = pick(0)
    poor = Account.create().address
    transfer = {"from": poor, "to": token.address, "data": token.at(w3).encode_abi("totalSupply", [])}
    pretended = {token.address: {"stateDiff": {"0x" + "00" * 32: "0x" + "00" * 31 + "2a"}}}
    answer = w3.eth.call(transfer, "latest", pretended)
    assert int.from_bytes(answer, "big") == 42
    # Code that returns its caller's balance.
    code = "0x333160005260206000f3"
    probe = Account.create().address
    answer = w3.eth.call(
        {"from": poor, "to": probe}, "latest", {probe: {"code": code}, poor: {"balance": hex(99)}}
    )
    assert int.from_bytes(answer, "big") == 99


# --- filters -----------------------------------------------------------------------------------


def test_filters_report_each_thing_once(pick, token):
    w3, other = pick(1), pick(2)
    target = Account.create().address
    logs = token.at(w3).events.Transfer.create_filter(
        from_block="latest", argument_filters={"receiver": target}
    )
    blocks = w3.eth.filter("latest")
    everything = w3.eth.filter({"fromBlock": token.block, "address": token.address})
    done = token.transfer(other, target, 9)

    (event,) = logs.get_new_entries()
    assert event["args"]["value"] == 9 and event["transactionHash"] == done["transactionHash"]
    assert logs.get_new_entries() == []
    assert done["blockHash"] in blocks.get_new_entries()
    assert done["blockHash"] not in blocks.get_new_entries()
    assert done["logs"][0] in everything.get_all_entries()
    assert w3.eth.uninstall_filter(logs.filter_id) is True
    assert w3.eth.uninstall_filter(logs.filter_id) is False
    error = call(w3, "eth_getFilterChanges", logs.filter_id)["error"]
    assert error["message"] == "filter not found"


def test_pending_transactions_are_reported(pick):
    w3, other = pick(3), pick(0)
    account = new_account(w3)
    pending = w3.eth.filter("pending")
    mine = send(w3, account, to=account.address, gas=21_000)
    seen = []
    wait_until("the transaction was not reported", lambda: seen.extend(pending.get_new_entries()) or mine in seen)
    # One that came in through another node arrives by gossip.
    theirs = send(other, account, nonce=1, to=account.address, gas=21_000)
    wait_until(
        "the transaction of another node was not reported",
        lambda: seen.extend(pending.get_new_entries()) or theirs in seen,
    )


# --- fees --------------------------------------------------------------------------------------


def test_fee_history(nodes, pick, token):
    w3 = pick(2)
    token.transfer(w3, Account.create().address, 1)
    newest = w3.eth.block_number
    history = w3.eth.fee_history(4, newest, [10, 50, 90])
    count = len(history["gasUsedRatio"])
    assert count == min(4, newest + 1)
    assert history["oldestBlock"] == newest + 1 - count
    assert len(history["baseFeePerGas"]) == count + 1
    assert len(history["reward"]) == count and all(len(r) == 3 for r in history["reward"])
    for i in range(count):
        block = w3.eth.get_block(history["oldestBlock"] + i)
        assert history["baseFeePerGas"][i] == block["baseFeePerGas"] > 0
        assert abs(history["gasUsedRatio"][i] - block["gasUsed"] / block["gasLimit"]) < 1e-9
    level(newest)
    assert all(other.eth.fee_history(4, newest, [10, 50, 90]) == history for other in nodes)
    beyond = call(w3, "eth_feeHistory", "0x1", hex(newest + 1_000_000), [])["error"]
    assert "request beyond head block" in beyond["message"]


# --- errors ------------------------------------------------------------------------------------


def test_refused_transactions_are_told_why(pick):
    w3 = pick(1)
    account = new_account(w3, ether=1)
    target = Account.create().address
    base = {"to": target, "value": 0, "gas": 21_000, "nonce": 0, "chainId": CHAIN_ID, **fees(w3)}

    def why(**fields):
        code, message = refused(w3, account.sign_transaction({**base, **fields}).raw_transaction)
        assert code == -32000, message
        return message

    assert "insufficient funds for gas * price + value" in why(value=Web3.to_wei(2, "ether"))
    assert "intrinsic gas too low" in why(gas=20_999)
    assert "transaction gas limit too high (cap: 16777216, tx: 16777217)" in why(gas=16_777_217)
    assert "invalid chain id" in why(chainId=CHAIN_ID + 1)
    assert "max priority fee per gas higher than max fee per gas" in why(maxPriorityFeePerGas=10**12)
    assert "max initcode size exceeded" in why(to=b"", data=b"\0" * 49_153, gas=10_000_000)
    too_long = why(data=b"\1" * 140_000, gas=16_000_000)
    assert "oversized data" in too_long or "transaction too large" in too_long

    unprotected = {k: base[k] for k in ("to", "value", "gas", "nonce")} | {"gasPrice": w3.eth.gas_price}
    signed = account.sign_transaction(unprotected)
    assert "only replay-protected (EIP-155) transactions allowed over RPC" in refused(w3, signed.raw_transaction)[1]

    # A blob transaction: type 3 is not supported here.
    assert "transaction type not supported" in refused(w3, "0x03" + "c0")[1]
    refused(w3, "0x")
    refused(w3, "0x02c0")
    refused(w3, "0x" + "ff" * 100)

    assert receipt(w3, send(w3, account, nonce=0, to=target, gas=21_000))["status"] == 1
    assert "nonce too low" in why(nonce=0)

    # A gap keeps the next one waiting, so that it can be told apart from its replacement.
    waiting = account.sign_transaction({**base, "nonce": 2})
    w3.eth.send_raw_transaction(waiting.raw_transaction)
    assert "already known" in refused(w3, waiting.raw_transaction)[1]
    assert "replacement transaction underpriced" in why(nonce=2, value=1)


def test_calls_that_cannot_be_answered(pick):
    w3 = pick(2)
    cases = [
        ("eth_noSuchMethod", [], -32601, "the method eth_noSuchMethod does not exist/is not available"),
        ("eth_getBalance", [], -32602, "missing value for required argument 0"),
        ("eth_getBalance", ["0x12", "latest"], -32602, "invalid argument 0"),
        ("eth_getBalance", ["0x" + "00" * 20, "newest"], -32602, "invalid argument 1"),
        ("eth_getBalance", ["0x" + "00" * 20, "latest", 1], -32602, "too many arguments, want at most 2"),
        ("eth_getBalance", ["0x" + "00" * 20, hex(10**12)], -32000, "header not found"),
        ("eth_getBlockByNumber", ["0x01", False], -32602, "leading zero"),
        ("eth_getLogs", [{"blockHash": "0x" + "12" * 32}], -32000, "unknown block"),
        ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "0x1"}], -32602, "invalid block range params"),
        ("eth_call", [{"to": "0x" + "00" * 20, "gasPrice": "0x1", "maxFeePerGas": "0x1"}], -32000, "both gasPrice and"),
        ("eth_sendRawTransaction", ["12"], -32602, "hex string without 0x prefix"),
    ]
    for method, params, code, text in cases:
        error = call(w3, method, *params)["error"]
        assert (error["code"], text in error["message"]) == (code, True), (method, params, error)


def test_batches(pick):
    w3 = pick(3)
    with w3.batch_requests() as batch:
        batch.add(w3.eth.get_block(0))
        batch.add(w3.eth.get_balance(dev_account(9).address))
        batch.add(w3.eth.get_block("latest"))
        genesis, balance, latest = batch.execute()
    assert genesis["number"] == 0 and balance >= 0 and latest["number"] >= 0


# --- Axolotl's own -----------------------------------------------------------------------------


def test_certificates_and_membership(nodes, pick, token):
    memberships = [call(w3, "axolotl_getMembership")["result"] for w3 in nodes]
    assert all(m["record_hash"] == memberships[0]["record_hash"] for m in memberships)
    members = {m["public_key"] for m in memberships[0]["validators"]}
    w3 = pick(0)
    block = w3.eth.get_block(token.block)
    certificate = call(w3, "axolotl_getCommitCertificate", hex(token.block))["result"]
    assert certificate["block"] == block["hash"].to_0x_hex()
    assert certificate["height"] == token.block
    signers = {signer for signer, _ in certificate["signatures"]}
    assert len(signers) >= memberships[0]["quorum"] and signers <= members
    assert block["extraData"].to_0x_hex() in members, "extraData is the builder's key"
    assert call(w3, "axolotl_getCommitCertificate", "0x0")["result"] is None
    for node in nodes:
        status = call(node, "axolotl_status")["result"]
        assert status["chain_id"] == CHAIN_ID and status["height"] >= token.block


def test_keystores_pass_between_the_tool_and_eth_account(tmp_path):
    """A file of `axolotl wallet` opens in eth-account, and one of eth-account in the tool."""

    def axolotl(*words):
        tool = [os.environ["AXOLOTL_TOOL"], *words, "--wallet", "wallet", "--password-file", "pass"]
        done = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        return done.stdout

    (tmp_path / "pass").write_text("pässword\n")
    made = json.loads(axolotl("wallet", "create", "alice", "--json"))
    secret = Account.decrypt((tmp_path / made["path"]).read_text(), "pässword")
    assert Account.from_key(secret).address == made["address"]

    for kdf in ("scrypt", "pbkdf2"):
        other = Account.create()
        (tmp_path / "other.json").write_text(json.dumps(other.encrypt("pässword", kdf=kdf)))
        axolotl("wallet", "import", kdf, "--keystore", "other.json")
        assert HexBytes(axolotl("wallet", "export", kdf, "--private-key").strip()) == other.key

"""The registry answers as its OpenAPI document says: schemathesis tries to show that it does not.

AXOLOTL_REGISTRY_URL: a running registry.
AXOLOTL_ADMIN_TOKEN_FILE: its admin token, where the calls of operators are to go through; then nothing may
depend on it, since /shutdown is among them.
"""

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ.get("AXOLOTL_REGISTRY_URL", "")
TOKEN_FILE = os.environ.get("AXOLOTL_ADMIN_TOKEN_FILE")
# Another seed finds other things: AXOLOTL_SEED.
SEED = os.environ.get("AXOLOTL_SEED", "1")
EXAMPLES = 200 if os.environ.get("AXOLOTL_SOAK") == "1" else 25
DEADLINE = 540


def test_schemathesis_finds_nothing(tmp_path):
    command = ["schemathesis", "run", f"{URL}/openapi.json", "--checks", "all", "--seed", SEED]
    command += ["--max-examples", str(EXAMPLES), "--generation-database", "none", "--no-color"]
    command += ["--request-timeout", "10", "--continue-on-failure", "--suppress-health-check", "all"]
    # It never ends; the next test looks at it.
    command += ["--exclude-path", "/events"]
    if TOKEN_FILE:
        command += ["--header", f"Authorization: Bearer {Path(TOKEN_FILE).read_text().strip()}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)


def test_the_stream_of_events_is_as_documented():
    with urllib.request.urlopen(f"{URL}/events", timeout=10) as stream:
        assert stream.status == 200
        assert stream.headers.get_content_type() == "text/event-stream"
        # The first thing that happened is that the registry started.
        lines = [stream.readline().decode().strip() for _ in range(3)]
    fields = dict(line.split(": ", 1) for line in lines)
    event = json.loads(fields["data"])
    assert fields["event"] == event["kind"]
    assert int(fields["id"]) == event["id"]
    wrong = urllib.request.Request(f"{URL}/events", headers={"Last-Event-ID": "x"})
    try:
        urllib.request.urlopen(wrong, timeout=10)
        raise AssertionError("an event id that is no number was taken")
    except urllib.error.HTTPError as error:
        assert error.code == 400
        assert error.headers.get_content_type() == "application/problem+json"

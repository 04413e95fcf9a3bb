"""A network above the relay in which packets vanish: nobody is told, and yet the relay must not hide it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.rays import REPOSITORY

# Runs in a network namespace of its own, and makes another one for the upstream.
PROGRAM = """
import json, socket, subprocess, sys, time
from tests.support import http2
from tests.support.bare_relay import BareRelay

UPSTREAM = '''
import time
from tests.support import http2
input()
with http2.Server(lambda message: message, host="10.55.0.2") as server:
    print(server.port, flush=True)
    time.sleep(600)
'''

def run(*command):
    subprocess.run(command, check=True)

upstream = subprocess.Popen(
    ["unshare", "--net", "--kill-child", "--fork", sys.executable, "-c", UPSTREAM],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
time.sleep(1)
children = open(f"/proc/{upstream.pid}/task/{upstream.pid}/children").read().split()
far = ["nsenter", f"--net=/proc/{children[0]}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far")
run("ip", "link", "set", "far", "netns", children[0])
run("ip", "addr", "add", "10.55.0.1/24", "dev", "near")
run("ip", "link", "set", "near", "up")
run(*far, "ip", "addr", "add", "10.55.0.2/24", "dev", "far")
run(*far, "ip", "link", "set", "far", "up")
upstream.stdin.write("\\n")
upstream.stdin.flush()
port = int(upstream.stdout.readline())

def listens(relay):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", relay.port)) == 0

def until(condition):
    began = time.monotonic()
    while not condition() and time.monotonic() < began + 120:
        time.sleep(0.1)
    return time.monotonic() - began if condition() else None

seen = {}
with BareRelay(f"10.55.0.2:{port}") as relay:
    clients = http2.Clients(relay.port)
    nodes = [clients.connect() for _ in range(20)]
    for node in nodes:
        node.send(http2.request(1, "/test/Echo", b"before"))
    seen["before"] = clients.run(lambda: all(node.ended for node in nodes), 60)
    run(*far, "ip", "link", "set", "far", "down")
    # What is not acknowledged tells that packets vanish. The others send nothing, so one of the relay's
    # two connections stays as it was.
    nodes[0].send(http2.request(3, "/test/Echo", b"during"))
    seen["closed_s"] = until(lambda: not listens(relay))
    seen["connection_closed"] = clients.run(lambda: all(node.closed for node in nodes), 60)
    run(*far, "ip", "link", "set", "far", "up")
    seen["listens_again"] = until(lambda: listens(relay)) is not None

    def answers():
        late = clients.connect()
        late.send(http2.request(1, "/test/Echo", b"after"))
        return clients.run(lambda: bool(late.ended), 10) and late.received_bytes > 0

    seen["after"] = until(answers) is not None
upstream.kill()
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_packets_that_vanish_above_a_relay_end_its_connections() -> None:
    if subprocess.run(["unshare", "--net", "true"]).returncode != 0:
        pytest.skip("needs root for a network of its own")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    closed_s = seen.pop("closed_s")
    print(f"the relay closed its listener after {closed_s:.1f} s")
    # Twenty seconds without an answer, and five without an upstream.
    assert 20 < closed_s < 60
    assert all(seen.values()), seen

"""What a relay adds to a call. The claim: p50 under 0.3 ms and p99 under 1.5 ms at 2,000 calls a second.

One program (src/mantaray/relay/proxy_bench.cc) is both server and client. It calls itself directly,
through a relay, and through two, in turns of half a second, at a steady rate and however long the
calls take. The p99 is the median of the turns' (a thousand calls each): on a machine with other work
a single stall of a tenth of a second, wherever it falls, is all that the p99 of all calls would show;
that one is printed, too. Then it makes thousands of calls that are answered only when all of them
wait. Client, server and relays share this machine's cores.

    python benchmarks/relay_latency.py [--calls-per-s N] [--seconds N] [--long-polls N] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from mantaray.syncer import Relay

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bazel-bin/src/mantaray/relay/proxy_bench"
P50_CLAIM_MS, P99_CLAIM_MS = 0.3, 1.5
WAYS = ("direct", "one relay", "two relays")


def build() -> None:
    """Build the program that calls and is called, with Bazel."""
    command = ["bazel", "build", "//src/mantaray/relay:proxy_bench"]
    variables = os.environ | {"PYTHON_BIN_PATH": sys.executable}
    subprocess.run(command, cwd=ROOT, check=True, env=variables, stderr=subprocess.DEVNULL)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(
    program: Path, calls_per_s: float, seconds: float, long_polls: int
) -> dict[str, object]:
    """Run the program; return its figures, and what the relays add."""
    port = free_port()
    upstream = f"127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(Relay(upstream, "127.0.0.1:0"))
        two = stack.enter_context(Relay(f"127.0.0.1:{one.port}", "127.0.0.1:0"))
        done = subprocess.run(
            [
                program,
                *map(str, (port, f"{one.port},{two.port}", calls_per_s, seconds, long_polls)),
            ],
            input="go\n",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    ways = [way | {"way": name} for name, way in zip(WAYS, figures["ways"], strict=True)]
    direct, through = ways[0], ways[1]
    added = {name: through[name] - direct[name] for name in ("p50_ms", "p99_ms")}
    answered = all(way["long_polls"] == long_polls and not way["failures"] for way in ways)
    holds = added["p50_ms"] < P50_CLAIM_MS and added["p99_ms"] < P99_CLAIM_MS and answered
    return {"calls_per_s": calls_per_s, "ways": ways, "added": added, "holds": holds}


def main() -> int:
    """Measure, print, and return 0 only if the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls-per-s", type=float, default=2_000)
    parser.add_argument("--seconds", type=float, default=10, help="of each way")
    parser.add_argument("--long-polls", type=int, default=4_000)
    parser.add_argument("--program", type=Path, help="a proxy_bench that is built already")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.program is None:
        build()
    figures = measure(
        options.program or BENCH, options.calls_per_s, options.seconds, options.long_polls
    )
    if options.json:
        print(json.dumps(figures))
        return 0 if figures["holds"] else 1
    print(f"calls at {options.calls_per_s:.0f} a second, ms from when each was due")
    print(f"{'':12}{'p50':>8}{'p99':>8}{'of all':>8}{'failed':>8}   long polls answered")
    ways, added = figures["ways"], figures["added"]
    assert isinstance(ways, list) and isinstance(added, dict)
    for way in ways:
        print(
            f"{way['way']:12}{way['p50_ms']:8.3f}{way['p99_ms']:8.3f}"
            f"{way['pooled_p99_ms']:8.3f}{way['failures']:8d}"
            f"   {way['long_polls']} of {options.long_polls}"
        )
    print(f"one relay adds {added['p50_ms']:.3f} ms to the p50 (claim: < {P50_CLAIM_MS} ms)")
    print(f"          and {added['p99_ms']:.3f} ms to the p99 (claim: < {P99_CLAIM_MS} ms)")
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())

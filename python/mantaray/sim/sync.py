"""What resource-view sync costs and how stale views get, from measured costs of single steps.

The model is small on purpose, so that it can be checked by hand:

- Every node publishes `hz` updates a second. Direct, the GCS sends each of them to every other
  node; behind R relays, to every other relay, which sends it on to its own nodes, at most once a
  window.
- The GCS spends CPU on what comes in, on every message and on every write that goes out. As long
  as it keeps up, nearly every message is a write. Beyond one core it gathers what waits for a
  stream while a write is under way, and the cost of a message falls towards that of a message
  without its write: this is its capacity. Past that, views age by whole rounds.
- Staleness is the time from a node's update to another node's having it. Behind relays it is the
  window, the relay's own pass over its nodes, and what the GCS adds.

`docs/sync-simulation.md` compares the predictions with measurements and says where they are off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_HOP_S = 0.002


@dataclass(frozen=True)
class Costs:
    """What single steps cost on the machine that was measured; seconds of CPU.

    Attributes:
        gcs_base: of a GCS that has nothing to sync, per second.
        gcs_in_s: of an update that the GCS takes in.
        gcs_out_s: of a message in a write.
        gcs_write_s: of a write.
        relay_write_s: of a write of a relay to one of its nodes.
        relay_in_s: of a message that a relay takes in.
        batches: whether several messages go in one write (2.53 and newer).
        message_bytes: on the wire.
    """

    gcs_base: float = 0.10
    gcs_in_s: float = 44e-6
    gcs_out_s: float = 1.8e-6
    gcs_write_s: float = 24e-6
    relay_write_s: float = 20e-6
    relay_in_s: float = 3e-6
    batches: bool = True
    message_bytes: int = 285


COSTS: dict[str, Costs] = {
    "2.60": Costs(),
    # One message a write, whatever waits: 70,000 a second at most. So it is for relays, to which a
    # small write among many costs less than a frame for a whole window.
    "2.48": Costs(gcs_write_s=12.5e-6, relay_write_s=4e-6, batches=False),
}


@dataclass(frozen=True)
class Plan:
    """A cluster to be.

    Attributes:
        nodes: at least 2.
        hz: updates a second of each node, more than 0.
        relays: right below the GCS; 0 for none.
        window_ms: for which a relay gathers what it sends to its nodes.
    """

    nodes: int
    hz: float
    relays: int
    window_ms: float


@dataclass(frozen=True)
class Prediction:
    """What to expect.

    Attributes:
        messages_per_s: that the GCS sends.
        gcs_cores: CPU of the GCS; its sync thread has one core at most.
        staleness_p50_ms: of half of the updates.
        staleness_p99_ms: of all but one in a hundred; infinite where views never catch up.
        saturated: whether the GCS cannot keep up without gathering.
        relay_cores: CPU of one relay.
        relay_writes_per_s: of one relay.
        gcs_bytes_per_s: that the GCS sends.
    """

    messages_per_s: float
    gcs_cores: float
    staleness_p50_ms: float
    staleness_p99_ms: float
    saturated: bool
    relay_cores: float
    relay_writes_per_s: float
    gcs_bytes_per_s: float


def predict(plan: Plan, costs: Costs) -> Prediction:
    """Return what a plan leads to.

    Args:
        plan: the cluster.
        costs: of single steps, such as `COSTS["2.60"]`.

    Raises:
        ValueError: the plan makes no sense.
    """
    _check(plan)
    streams = plan.relays or plan.nodes
    updates = plan.nodes * plan.hz
    messages = updates * (streams - 1)
    light = _gcs_cores(costs, updates, messages, _light_writes(plan, costs, messages))
    saturated = light > 1
    cores = min(light, 1.0 + costs.gcs_base)
    round_s = _round_s(plan, costs, streams, messages) if saturated else 0.0
    p50_s, p99_s = _HOP_S + round_s / 2, 2 * _HOP_S + round_s
    relay_writes = relay_cores = 0.0
    if plan.relays:
        relay_writes, relay_cores = _relay(plan, costs, updates)
        window_s = _effective_window_s(plan, updates)
        in_a_window = 1.0 if costs.batches else max(updates * window_s, 1.0)
        fan_out_s = math.ceil(plan.nodes / plan.relays) * in_a_window * costs.relay_write_s
        # A relay that needs more than its core falls behind: its readers get fewer, newer frames.
        slower = max(relay_cores, 1.0)
        p50_s += window_s * slower / 2 + fan_out_s / 2
        p99_s += window_s * slower + fan_out_s
    return Prediction(
        messages_per_s=messages,
        gcs_cores=cores,
        staleness_p50_ms=p50_s * 1000,
        staleness_p99_ms=p99_s * 1000,
        saturated=saturated,
        relay_cores=relay_cores,
        relay_writes_per_s=relay_writes,
        gcs_bytes_per_s=messages * costs.message_bytes,
    )


def _check(plan: Plan) -> None:
    if plan.nodes < 2:
        raise ValueError("a plan has at least 2 nodes")
    if not (math.isfinite(plan.hz) and plan.hz > 0):
        raise ValueError("nodes publish more than 0 updates a second")
    if not 0 <= plan.relays <= plan.nodes:
        raise ValueError("there are 0 relays or more, and no more than nodes")
    if not (math.isfinite(plan.window_ms) and plan.window_ms >= 0):
        raise ValueError("a window has 0 milliseconds or more")


def _gcs_cores(costs: Costs, updates: float, messages: float, writes: float) -> float:
    work = updates * costs.gcs_in_s + messages * costs.gcs_out_s + writes * costs.gcs_write_s
    return costs.gcs_base + work


def _light_writes(plan: Plan, costs: Costs, messages: float) -> float:
    """Return the GCS's writes a second as long as it keeps up with each message as it comes."""
    if not plan.relays or not costs.batches:
        return messages
    # A relay sends upstream at once what arrives while nothing is being written; what comes within
    # one write goes with the next.
    per_relay = plan.nodes * plan.hz / plan.relays
    in_a_write = per_relay * costs.gcs_write_s * plan.relays
    return messages / (1 + in_a_write)


def _round_s(plan: Plan, costs: Costs, streams: int, messages: float) -> float:
    """Return how long a GCS with more than a core's work takes for a round over all of its streams."""
    if not costs.batches:
        load = messages * (costs.gcs_write_s + costs.gcs_out_s)
        whole_s = streams * plan.nodes * (costs.gcs_write_s + costs.gcs_out_s)
        return whole_s if load >= 1 else min(whole_s, _queue_s(load))
    load = messages * costs.gcs_out_s + plan.nodes * plan.hz * costs.gcs_in_s
    # In the worst case everything is sent to everyone: newest wins, so that there is never more.
    whole_s = streams * (costs.gcs_write_s + plan.nodes * costs.gcs_out_s)
    if load >= 1:
        return 2 * whole_s
    return min(streams * costs.gcs_write_s / (1 - load), 2 * whole_s)


def _queue_s(load: float) -> float:
    return 0.01 * load / (1 - load)


def _effective_window_s(plan: Plan, updates: float) -> float:
    """Return for how long an update waits at most: the first after a quiet window goes at once."""
    window_s = plan.window_ms / 1000
    busy = 1 - math.exp(-updates * window_s)
    return window_s * busy


def _relay(plan: Plan, costs: Costs, updates: float) -> tuple[float, float]:
    """Return one relay's writes a second, and its CPU."""
    nodes = plan.nodes / plan.relays
    gathers = costs.batches and plan.window_ms > 0
    rounds = min(updates, 1000 / plan.window_ms) if gathers else updates
    writes = nodes * rounds + nodes * plan.hz
    return writes, writes * costs.relay_write_s + updates * costs.relay_in_s

"""Predicts what resource-view sync costs and how stale views get, from measured costs of single steps.

The model is small on purpose, so that it can be checked by hand:

- Every node publishes `hz` updates per second. Without relays, the GCS sends each update to every other
  node. With R relays, it sends each update to every other relay, and the relay sends it to its own nodes,
  at most once per window.
- The GCS spends CPU on each update that arrives, and on each message and each write that it sends. While
  it keeps up, nearly every message is a write of its own. Above one core it gathers messages for a stream
  while a write is in flight. The cost of a message then falls towards that of a message without its write,
  which determines the capacity. Above the capacity, views age by whole rounds.
- Staleness is the time from a node's update until another node has it. Behind relays it is the window,
  plus the relay's pass over its nodes, plus the delay in the GCS.

`docs/sync-simulation.md` compares the predictions with measurements and says where they are off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_HOP_S = 0.002


@dataclass(frozen=True)
class Costs:
    """The costs of single steps on the machine that was measured, in CPU seconds.

    Attributes:
        gcs_base: of a GCS that has nothing to sync, per second.
        gcs_in_s: of an update that the GCS receives.
        gcs_out_s: of a message in a write.
        gcs_write_s: of a write.
        relay_write_s: of a write of a relay to one of its nodes.
        relay_in_s: of a message that a relay receives.
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
    # Each message is a write of its own, so there are at most 70,000 messages per second. The same holds
    # for relays, where a small write among many costs less than a frame for a whole window.
    "2.48": Costs(gcs_write_s=12.5e-6, relay_write_s=4e-6, batches=False),
}


@dataclass(frozen=True)
class Plan:
    """A planned cluster.

    Attributes:
        nodes: how many; at least 2.
        hz: updates of each node per second, more than 0.
        relays: how many relays are directly below the GCS; 0 for none.
        window_ms: how long a relay gathers changes before it sends them to its nodes.
    """

    nodes: int
    hz: float
    relays: int
    window_ms: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for a plan.

    Attributes:
        messages_per_s: messages that the GCS sends.
        gcs_cores: CPU of the GCS. Its sync thread has one core at most.
        staleness_p50_ms: median of the staleness of updates.
        staleness_p99_ms: 99th percentile of it; infinite if views never catch up.
        saturated: whether the GCS can only keep up by gathering messages.
        relay_cores: CPU of one relay.
        relay_writes_per_s: writes of one relay.
        gcs_bytes_per_s: bytes that the GCS sends.
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
    """Return the prediction for a plan.

    Args:
        plan: the cluster.
        costs: of single steps, such as `COSTS["2.60"]`.

    Raises:
        ValueError: a value of the plan is out of range.
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
        # A relay that needs more than its core falls behind. Its readers then get fewer, newer frames.
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
        raise ValueError("nodes publish more than 0 updates per second")
    if not 0 <= plan.relays <= plan.nodes:
        raise ValueError("there are 0 relays or more, and no more than nodes")
    if not (math.isfinite(plan.window_ms) and plan.window_ms >= 0):
        raise ValueError("a window has 0 milliseconds or more")


def _gcs_cores(costs: Costs, updates: float, messages: float, writes: float) -> float:
    work = updates * costs.gcs_in_s + messages * costs.gcs_out_s + writes * costs.gcs_write_s
    return costs.gcs_base + work


def _light_writes(plan: Plan, costs: Costs, messages: float) -> float:
    """Return the GCS's writes per second while it sends each message as soon as it arrives."""
    if not plan.relays or not costs.batches:
        return messages
    # A relay sends a change upstream at once if no write is in flight. Changes that arrive during a write
    # go with the next one.
    per_relay = plan.nodes * plan.hz / plan.relays
    in_a_write = per_relay * costs.gcs_write_s * plan.relays
    return messages / (1 + in_a_write)


def _round_s(plan: Plan, costs: Costs, streams: int, messages: float) -> float:
    """Return how long an overloaded GCS takes for a round over all of its streams."""
    if not costs.batches:
        load = messages * (costs.gcs_write_s + costs.gcs_out_s)
        whole_s = streams * plan.nodes * (costs.gcs_write_s + costs.gcs_out_s)
        return whole_s if load >= 1 else min(whole_s, _queue_s(load))
    load = messages * costs.gcs_out_s + plan.nodes * plan.hz * costs.gcs_in_s
    # In the worst case a round sends every view to every stream. A newer view replaces an older one, so
    # there is never more to send.
    whole_s = streams * (costs.gcs_write_s + plan.nodes * costs.gcs_out_s)
    if load >= 1:
        return 2 * whole_s
    return min(streams * costs.gcs_write_s / (1 - load), 2 * whole_s)


def _queue_s(load: float) -> float:
    return 0.01 * load / (1 - load)


def _effective_window_s(plan: Plan, updates: float) -> float:
    """Return how long an update waits at most. The first update after a quiet window is sent at once."""
    window_s = plan.window_ms / 1000
    busy = 1 - math.exp(-updates * window_s)
    return window_s * busy


def _relay(plan: Plan, costs: Costs, updates: float) -> tuple[float, float]:
    """Return one relay's writes per second, and its CPU."""
    nodes = plan.nodes / plan.relays
    gathers = costs.batches and plan.window_ms > 0
    rounds = min(updates, 1000 / plan.window_ms) if gathers else updates
    writes = nodes * rounds + nodes * plan.hz
    return writes, writes * costs.relay_write_s + updates * costs.relay_in_s

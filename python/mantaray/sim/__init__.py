"""Planning: what a cluster's resource-view sync will cost, before there is a cluster."""

from __future__ import annotations

from mantaray.sim.sync import COSTS, Costs, Plan, Prediction, predict

__all__ = ["COSTS", "Costs", "Plan", "Prediction", "predict"]

"""The planner: predicts what a cluster's resource-view sync will cost, before the cluster exists."""

from __future__ import annotations

from mantaray.sim.sync import COSTS, Costs, Plan, Prediction, predict

__all__ = ["COSTS", "Costs", "Plan", "Prediction", "predict"]

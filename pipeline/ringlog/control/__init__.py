"""What should be done about the cluster, decided from what was observed of it. Pure."""

from ringlog.control.condition import condition_of
from ringlog.control.placement import Plan, members_of, plan_of, shard_names
from ringlog.control.reconcile import Reconciler, TakeOver

__all__ = ["Plan", "Reconciler", "TakeOver", "condition_of", "members_of", "plan_of", "shard_names"]

"""What should be done about the cluster, decided from what was observed of it. Pure."""

from ringlog.control.placement import members_of, shard_names
from ringlog.control.reconcile import Reconciler, TakeOver

__all__ = ["Reconciler", "TakeOver", "members_of", "shard_names"]

"""The cores that the actors drive, in one process, from one seed: network, disks, stores and clocks are simulated.

``python -m ringlog.simulation --seeds 0:2000`` runs seeds; ``--trace SEED`` tells the story of one. A run has a phase
in which things fail, in a mix that the seed draws, and a phase in which nothing fails any more and everything must
come right. `checker` knows the invariants and stands apart from the cluster.
"""

from ringlog.simulation.faults import KINDS, Mix
from ringlog.simulation.run import Report, simulate

__all__ = ["KINDS", "Mix", "Report", "simulate"]

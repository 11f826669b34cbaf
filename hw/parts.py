"""Parts of a run: where a cycle can go; each cycle is in exactly one."""

__all__ = ["PARTS"]

PARTS = ("config", "fill", "compute", "noc", "dma", "psum", "drain")
"""Parts of a run, in the order of the one-hot output.

config : until the first descriptor is active
fill : until the first multiply-accumulate of a layer
compute : a step was issued
noc, dma : steps are blocked by an operand: the global buffer holds it, or does not
psum : steps are blocked by a chain or a bank
drain : after the last step, until the step nest is started again
"""

"""The memory that predictions are for; simulations with ``--memory fast`` have the same."""

__all__ = ["MEMORY_LATENCY", "WRITE_LATENCY"]

MEMORY_LATENCY = 100
"""Cycles from a read request to its first beat."""

WRITE_LATENCY = 20
"""Cycles from a write's last beat to its response."""

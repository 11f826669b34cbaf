"""The memory that predictions are for; simulations with ``--memory fast`` have the same."""

from rowmesh.hw.read_arbiter import ReadArbiter

__all__ = ["MEMORY_LATENCY", "ROUND_TRIP", "WRITE_LATENCY"]

MEMORY_LATENCY = 100
"""Cycles from a read request to its first beat."""

WRITE_LATENCY = 20
"""Cycles from a write's last beat to its response."""

ROUND_TRIP = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
"""Cycles from a read request to its first beat at who asked."""

"""What all runs of whole layers have in common."""

import pytest

from rowmesh.sw import run as flow


@pytest.fixture(autouse=True)
def _power_up(monkeypatch):
    """Registers and memories without a reset begin with what the seed says, and assertions are on."""
    monkeypatch.setattr(flow, "KIND", "regress")

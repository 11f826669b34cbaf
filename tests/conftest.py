"""The order of all tests, and what the command line says while it works."""

from rowmesh.sw.cli import progress


def pytest_configure():
    """Tests of what is printed must not depend on the machine's speed: nothing is said for taking long."""
    progress.PATIENCE = 3600.0


def pytest_collection_modifyitems(items):
    """Runs of whole accelerators, the longest tests, go first: at the end workers are left with short ones to share."""
    items.sort(key=lambda item: "system" not in item.path.parts)

"""The order of all tests."""


def pytest_collection_modifyitems(items):
    """Runs of whole accelerators, the longest tests, go first: at the end workers are left with short ones to share."""
    items.sort(key=lambda item: "system" not in item.path.parts)

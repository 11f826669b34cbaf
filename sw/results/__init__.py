"""What a run found, and what it means."""

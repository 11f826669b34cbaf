"""From a mapping to the words that the hardware fetches."""

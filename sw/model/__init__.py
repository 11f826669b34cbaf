"""What the model predicts of a mapping: cycles, counts, energy."""

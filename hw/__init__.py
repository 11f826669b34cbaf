"""The hardware generator: every block of the accelerator, described in Amaranth."""

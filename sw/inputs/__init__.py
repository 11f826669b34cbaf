"""What users write and what is written for them: YAML, architectures, selections, output files."""

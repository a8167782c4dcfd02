"""Studies on top of the commands: python -m experiments.NAME."""

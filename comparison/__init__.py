"""Many runs: side by side, their identity, statistics, tables and plots."""

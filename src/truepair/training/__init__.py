"""The loop, checkpoints, recipes and runs."""

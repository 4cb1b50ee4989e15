"""Checkpoints of a run: which are complete, whether they belong to it, and the state to continue from."""

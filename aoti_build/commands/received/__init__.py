"""Releases at their receiver: what `verify --release` and `run --release` have in common."""

"""Shared tools: files, directories, locks, JSON records, digests, and resources of the host."""

"""Measures how fast artifacts are, so that two of them can be compared.

A sample is a process, not a call: the calls of one process share its memory layout, its threads and
the load of its minute, so they say little about the next process. `samples` takes samples, `pairs`
interleaves them, and `statistics` draws the conclusion.
"""

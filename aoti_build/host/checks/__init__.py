"""Checks of the host's needs for compiling, loading and publishing, with cause and remedy.

`doctor` runs them, and `build` before it compiles.
"""

"""Compiled packages: replaces their weights, and loads them here or in a C++ process."""

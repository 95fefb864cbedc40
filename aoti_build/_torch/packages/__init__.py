"""Compiled packages: their weights exchanged, and they themselves loaded, here or in a C++
process."""

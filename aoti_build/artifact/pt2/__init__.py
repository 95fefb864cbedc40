"""Reading `.pt2` packages without torch and without loading their contents.

This module must not import the others. Threads import them one by one. If this module imported
them, a thread that imports one of them and a thread that imports the package would wait for each
other.
"""

"""Reading `.pt2` packages without torch and without loading what they hold.

This module imports none of the others: threads import them one by one, and a package that imports
its own modules while another thread imports one of these makes both wait for each other.
"""

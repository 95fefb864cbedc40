"""Executes a plan: workers, their checks, and the steps from an export to a publication."""

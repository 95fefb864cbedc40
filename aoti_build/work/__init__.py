"""Doing what a plan says: workers, their checks, one target from job to publication, several
targets at once."""

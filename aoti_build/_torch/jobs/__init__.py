"""A module for each job of `python -m aoti_build._torch`: its function of that name takes the job,
gives a result."""

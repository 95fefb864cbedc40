"""What an export used, so that a change in any of it is seen next time: files, distributions,
modules, variables."""

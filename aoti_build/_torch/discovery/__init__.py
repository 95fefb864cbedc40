"""Records the files, distributions, modules and variables that an export used, so that the next
plan sees a change in any of them."""

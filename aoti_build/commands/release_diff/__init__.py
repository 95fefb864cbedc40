"""`release-diff`: what changed between two releases."""

"""What a build shows while it works, on a terminal and elsewhere."""

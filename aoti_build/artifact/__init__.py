"""Published artifacts: their directories, manifests and `.pt2` packages, and their inputs."""

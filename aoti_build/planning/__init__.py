"""The comparison of each target with its artifact, without torch and without a change."""

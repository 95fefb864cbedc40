"""What has to be done: each target compared with its published artifact, without torch and without
a change."""

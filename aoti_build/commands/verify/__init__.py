"""`verify`: compare artifacts with eager mode."""

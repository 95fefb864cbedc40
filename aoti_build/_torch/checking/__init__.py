"""What eager gives, kept as golden files, and whether something else is that."""

"""What eager gives, kept as reference data, and whether something else is that."""

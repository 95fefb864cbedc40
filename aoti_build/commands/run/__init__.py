"""`run`: call artifacts with reference data or with inputs of the user's."""

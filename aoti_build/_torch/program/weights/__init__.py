"""Weights that models.yaml names in files: reading them, fitting their names and loading them."""

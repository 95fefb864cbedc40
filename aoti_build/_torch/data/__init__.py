"""Inputs from users' files: tensors and images."""

"""Inputs that people bring: tensors and images from files."""

"""Inputs that people bring: tensors and pictures from files."""

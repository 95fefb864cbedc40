"""The build system for PyTorch AOTInductor artifacts: models.yaml in, checked `.pt2` packages out."""

__version__ = "0.1.0"

"""Rendering of report values, without logic: what is true was decided below this layer."""

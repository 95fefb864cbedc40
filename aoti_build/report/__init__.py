"""Rendering of report values. The layers below decide; this one only shows."""

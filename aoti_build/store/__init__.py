"""The store of earlier artifacts, and of compiled GPU kernels."""

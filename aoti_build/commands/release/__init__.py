"""`release`, and `release-push` and `release-pull`: bundles, and registries that hold them."""

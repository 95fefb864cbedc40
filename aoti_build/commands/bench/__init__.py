"""`bench` and `bench-history`: the speed of artifacts, and of a base beside them."""

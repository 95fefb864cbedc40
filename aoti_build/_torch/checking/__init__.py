"""Makes reference data from eager mode, and compares other results with it."""

"""`tune`: choose compile options by measuring."""

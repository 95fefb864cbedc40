"""Facts about this machine and the installed tools, found without importing torch."""

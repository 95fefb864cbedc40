"""`inspect`: what is in a package, and what differs between two."""

"""`verify --release`: check a bundle without its sources."""

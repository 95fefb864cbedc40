"""Earlier artifacts and GPU kernels, found by what they were made from."""

"""How this process compiles: inductor's options, its instruction sets, and the GPU kernels that are
kept."""

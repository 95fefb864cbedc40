"""How this process compiles: inductor's options, its instruction sets and its caches."""

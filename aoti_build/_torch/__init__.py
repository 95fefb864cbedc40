"""The code that runs inside worker processes, the only part of the build that imports torch.

No other package imports this one: `aoti_build.work.worker` starts ``python -m aoti_build._torch JOB
JOB.json EVENTS_FD``. It imports nothing above the layer `store` (tests/unit/test_layers.py).
"""

"""The kinds of state and of writes that models are shipped with, each built, compared and verified:
caches of keys and values, delay lines, rings, counters, running means, recurrent cells, streams,
and views of inputs under dynamic sizes. Several of them are miscompiled by torch alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_inv
from projects import write_single

NETS = '''
    import torch
    from torch import nn
    from torch.nn import functional as F


    class State(nn.Module):
        """Buffers by name, from their first values."""

        def __init__(self, **buffers):
            super().__init__()
            for name, value in buffers.items():
                self.register_buffer(name, value)


    class Counter(State):
        def __init__(self):
            super().__init__(total=torch.zeros(8), steps=torch.zeros((), dtype=torch.int64))
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            self.total.add_(x.sum(0))
            self.steps += 1
            return self.layer(x) + self.total / self.steps


    class Mean(State):
        def __init__(self):
            super().__init__(mean=torch.zeros(8))
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            self.mean.lerp_(x.mean(0), 0.1)
            return self.layer(x - self.mean)


    class Cache(State):
        """Attention over keys and values that are kept at the positions given."""

        def __init__(self):
            super().__init__(keys=torch.zeros(1, 64, 16), values=torch.zeros(1, 64, 16))
            self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x, positions):
            self.keys.index_copy_(1, positions, self.k(x))
            self.values.index_copy_(1, positions, self.v(x))
            seen = torch.arange(64)[None] <= positions[:, None]
            return F.scaled_dot_product_attention(self.q(x), self.keys, self.values, attn_mask=seen)


    def cache_inputs():
        return torch.randn(1, 2, 16), torch.randperm(60)[:2].sort().values


    class Stream(State):
        """A causal convolution that keeps the end of what it was given."""

        def __init__(self):
            super().__init__(past=torch.zeros(1, 4, 2))
            self.convolution = nn.Conv1d(4, 6, 3)

        def forward(self, x):
            x = torch.cat([self.past, x], 2)
            self.past.copy_(x[:, :, -2:])
            return self.convolution(x)


    class Cell(State):
        def __init__(self):
            super().__init__(hidden=torch.zeros(2, 8), memory=torch.zeros(2, 8))
            self.cell = nn.LSTMCell(8, 8)

        def forward(self, x):
            hidden, memory = self.cell(x, (self.hidden, self.memory))
            self.hidden.copy_(hidden)
            self.memory.copy_(memory)
            return hidden * 2


    class Swap(State):
        def __init__(self):
            super().__init__(a=torch.arange(4.0), b=torch.ones(4))

        def forward(self, x):
            kept = self.a.clone()
            self.a.copy_(self.b + x)
            self.b.copy_(kept)
            return self.a - self.b


    class Previous(State):
        def __init__(self):
            super().__init__(last=torch.ones(4, 8))

        def forward(self, x):
            previous = self.last.clone()
            self.last.copy_(x)
            return previous


    class PreviousRow(State):
        def __init__(self):
            super().__init__(last=torch.ones(4, 8), row=torch.zeros(8))

        def forward(self, x):
            self.row.copy_(self.last[1])
            self.last.copy_(x)
            return x + self.row


    class DelayLine(State):
        def __init__(self):
            super().__init__(a=torch.zeros(6), b=torch.zeros(6), c=torch.zeros(6))

        def forward(self, x):
            self.c.copy_(self.b)
            self.b.copy_(self.a)
            self.a.copy_(x)
            return self.a + 2 * self.b + 3 * self.c


    class Shifted(State):
        def __init__(self):
            super().__init__(ring=torch.zeros(5, 6))

        def forward(self, x):
            self.ring[:-1] = self.ring[1:].clone()
            self.ring[-1] = x
            return self.ring.mean(0)


    class Ring(State):
        def __init__(self):
            super().__init__(ring=torch.zeros(5, 6), at=torch.zeros(1, dtype=torch.int64))

        def forward(self, x):
            self.ring.index_copy_(0, self.at, x[None])
            self.at.add_(1).remainder_(5)
            return self.ring.sum(0) + self.at


    class Half(State):
        """State in another dtype than the inputs."""

        def __init__(self):
            super().__init__(
                sum=torch.zeros(8, dtype=torch.bfloat16), seen=torch.zeros(8, dtype=torch.bool)
            )

        def forward(self, x):
            self.sum.add_(x.sum(0).bfloat16())
            self.seen.logical_or_(x.amax(0) > 1)
            return self.sum * 2, self.seen


    class Held(State):
        """Answers the state itself."""

        def __init__(self):
            super().__init__(held=torch.zeros(3, 4))

        def forward(self, x):
            self.held.add_(x)
            return self.held


    class Statistics(State):
        """Running statistics, through an operator that does not say that it writes."""

        def __init__(self):
            super().__init__(mean=torch.zeros(4), variance=torch.ones(4))

        def forward(self, x):
            return F.batch_norm(x, self.mean, self.variance, training=True)


    class Sometimes(State):
        """Writes in one branch of torch.cond."""

        def __init__(self):
            super().__init__(kept=torch.zeros(4))

        def forward(self, x):
            def writes(value):
                self.kept.add_(value[0])
                return value + self.kept

            return torch.cond(x.sum() > 0, writes, lambda value: value * 2, (x,))


    class WrittenView(nn.Module):
        def forward(self, x):
            part = x[1:]
            part.mul_(2)
            part[:, 1:].add_(1)
            return x.sum(0)


    class WrittenTail(nn.Module):
        """A write through a view at an offset, whose size is dynamic."""

        def forward(self, x, y):
            tail = x[2:, 3:]
            tail.copy_(y[2:, 3:] + tail)
            y.zero_()
            return x * 1.5


    class Queue(State):
        """Takes as many rows as it is given, under a dynamic size."""

        def __init__(self):
            super().__init__(rows=torch.zeros(16, 4))

        def forward(self, x):
            count = x.shape[0]
            self.rows.copy_(torch.cat([self.rows[count:], x]))
            return self.rows.cumsum(0)[-1] + x
'''
ROWS = "dims: {rows: {min: 4, max: 9, example: 5}}"
MODELS = f"""
    counter: {{source: "net.py:Counter", inputs: [{{shape: [4, 8]}}]}}
    mean:
      source: net.py:Mean
      dims: {{batch: {{min: 1, max: 9, example: 4}}}}
      inputs: [{{shape: [batch, 8]}}]
    cache: {{source: "net.py:Cache", inputs: "net.py:cache_inputs"}}
    stream: {{source: "net.py:Stream", inputs: [{{shape: [1, 4, 10]}}]}}
    cell: {{source: "net.py:Cell", inputs: [{{shape: [2, 8]}}]}}
    swap: {{source: "net.py:Swap", inputs: [{{shape: [4]}}]}}
    previous: {{source: "net.py:Previous", inputs: [{{shape: [4, 8]}}]}}
    previous_row: {{source: "net.py:PreviousRow", inputs: [{{shape: [4, 8]}}]}}
    delay_line: {{source: "net.py:DelayLine", inputs: [{{shape: [6]}}]}}
    shifted: {{source: "net.py:Shifted", inputs: [{{shape: [6]}}]}}
    ring: {{source: "net.py:Ring", inputs: [{{shape: [6]}}]}}
    half: {{source: "net.py:Half", inputs: [{{shape: [4, 8]}}]}}
    held: {{source: "net.py:Held", inputs: [{{shape: [3, 4]}}]}}
    statistics: {{source: "net.py:Statistics", inputs: [{{shape: [6, 4]}}]}}
    sometimes: {{source: "net.py:Sometimes", inputs: [{{shape: [6, 4]}}]}}
    written_view: {{source: "net.py:WrittenView", {ROWS}, inputs: [{{shape: [rows, 4]}}]}}
    written_tail:
      source: net.py:WrittenTail
      {ROWS}
      inputs: [{{shape: [rows, 6]}}, {{shape: [rows, 6]}}]
    queue: {{source: "net.py:Queue", {ROWS}, inputs: [{{shape: [rows, 4]}}]}}
"""


@pytest.mark.slow
def test_every_kind_of_state_is_built_right_and_verified_from_python_and_cpp(
    tmp_path: Path,
) -> None:
    root = tmp_path / "project"
    write_single(root, NETS, MODELS)
    built = run_inv(root, "build", "--keep-going", "--json", limit=1500)
    assert built.code == 0, built.err
    assert {row["action"] for row in built.json["targets"]} <= {"compiled", "reused"}
    # From C++ a process is started for every probe, which takes a minute for four models.
    for runtime, targets in (
        ("python", "*/cpu"),
        ("cpp", "statistics,sometimes,queue,written_tail"),
    ):
        finished = run_inv(
            root,
            "verify",
            "--jobs",
            "2",
            "--target",
            targets,
            "--json",
            "--runtime",
            runtime,
            limit=1500,
        )
        assert finished.code == 0, finished.out + finished.err
        assert {row["verdict"] for row in finished.json["targets"]} == {"passed"}
        for row in finished.json["targets"]:
            read = {output["name"] for case in row["cases"] for output in case["outputs"]}
            if not row["target"].startswith("written"):
                assert any(name.startswith("buffer ") for name in read), row["target"]

"""The graph key sees whatever compiled code depends on, and neither names, comments nor the values
of weights."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aoti_build._torch.program.graph import (  # noqa: E402 - torch is imported first, with its warnings
    graph_digest,
    state_digest,
    uses_own_code,
)
from aoti_build._torch.program.walk import UnknownPart  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def exported(module: Any, *args: Any, dynamic: Any = None) -> Any:
    with torch.no_grad():
        return torch.export.export(
            module.eval(),
            args,
            dynamic_shapes=dynamic,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


class Call(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A module from a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def digest_of(function: Callable[..., Any], *args: Any) -> str:
    return graph_digest(exported(Call(function), *(args or (torch.ones(4, 3),))))


def read_before_write(x: Any) -> Any:
    view = x[0]
    doubled = view * 2
    x.add_(1)
    return doubled


def read_after_write(x: Any) -> Any:
    view = x[0]
    x.add_(1)
    return view * 2


def same_with_other_names(x: Any) -> Any:
    # The first row, read early.
    row = x[0]
    result = row * 2
    x.add_(1)
    return result


def test_a_view_read_before_or_after_an_in_place_write() -> None:
    assert digest_of(read_before_write) != digest_of(read_after_write)


def test_comments_and_local_names_do_not_count() -> None:
    assert digest_of(read_before_write) == digest_of(same_with_other_names)


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(8, 3),
        torch.ones(4, 3, dtype=torch.float64),
        torch.ones(3, 4).t(),
        torch.ones(4, 3, 1),
    ],
    ids=["batch", "dtype", "strides", "rank"],
)
def test_example_inputs_of_another_layout(other: Any) -> None:
    assert digest_of(torch.relu) != digest_of(torch.relu, other)


def test_the_range_of_a_dynamic_dim() -> None:
    digests = {
        graph_digest(
            exported(
                Call(torch.relu),
                torch.ones(4, 3),
                dynamic=[{0: torch.export.Dim("b", min=2, max=top)}],
            )
        )
        for top in (8, 16)
    }
    assert len(digests) == 2


def test_a_lifted_constant_counts_by_value() -> None:
    one, two = (
        digest_of(lambda x, values=values: x + torch.tensor(values))
        for values in ([1.0, 2, 3], [1.0, 2, 4])
    )
    assert one != two


def test_weights_count_by_layout_only_and_in_the_state_digest_by_value() -> None:
    programs = [exported(torch.nn.Linear(3, 4), torch.ones(2, 3)) for _ in range(2)]
    assert len({graph_digest(program) for program in programs}) == 1
    assert len({state_digest(program) for program in programs}) == 2
    wider = exported(torch.nn.Linear(3, 4).double(), torch.ones(2, 3, dtype=torch.float64))
    assert graph_digest(wider) != graph_digest(programs[0])


class Pair(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two square layers that may share their weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
        if tied:
            self.b.weight = self.a.weight

    def forward(self, x: Any) -> Any:
        return self.b(torch.relu(self.a(x)))


def test_tied_weights_untied() -> None:
    tied, untied = (graph_digest(exported(Pair(tied), torch.ones(2, 3))) for tied in (True, False))
    assert tied != untied


def test_equal_in_every_process_and_under_every_hash_seed() -> None:
    script = (
        "import torch\n"
        "from aoti_build._torch.program.graph import graph_digest\n"
        "module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()\n"
        "program = torch.export.export(module, (torch.ones(2, 3),))\n"
        "print(graph_digest(program))\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def flex(factor: float) -> Callable[..., Any]:
    """Attention whose score_mod torch's serialiser refuses."""
    from torch.nn.attention.flex_attention import flex_attention

    return lambda x: flex_attention(x, x, x, score_mod=lambda score, b, h, i, j: score * factor)


def counted(steps: int) -> Callable[..., Any]:
    """A loop that carries a number, which torch's serialiser refuses."""
    from torch._higher_order_ops import while_loop

    return lambda x: while_loop(
        lambda i, x: i < steps, lambda i, x: (i + 1, torch.tanh(x)), (0, x)
    )[1]


@pytest.mark.parametrize("made", [flex, counted])
def test_what_the_serialiser_refuses_is_told_apart_by_a_walk(
    made: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    example = torch.ones(1, 2, 16, 8)
    digests = [
        digest_of(made(2), example),
        digest_of(made(3), example),
        digest_of(made(2), torch.ones(2, 2, 16, 8)),
    ]
    assert "torch does not serialise this graph" in capfd.readouterr().err
    assert len(set(digests)) == 3
    assert digest_of(made(2), example) == digests[0]


def test_the_ranges_of_a_walked_graph_count() -> None:
    dims = [torch.export.Dim("b", min=2, max=top) for top in (8, 16)]
    tops = [
        graph_digest(exported(Call(flex(2)), torch.ones(4, 2, 16, 8), dynamic=[{0: dim}]))
        for dim in dims
    ]
    assert tops[0] != tops[1]


def test_types_of_one_name_are_told_apart_by_a_walk() -> None:
    def returning(kind: type) -> Any:
        return lambda x: kind(counted(2)(x))

    digests = []
    for module in ("one", "other"):
        kind = dataclasses.make_dataclass(
            "Returned", ["y"], namespace={"__module__": f"tests.{module}"}
        )
        torch.export.register_dataclass(kind, serialized_type_name=f"tests.{module}.Returned")
        digests.append(graph_digest(exported(Call(returning(kind)), torch.ones(3))))
    assert digests[0] != digests[1]


def test_the_walk_describes_no_graph_of_which_it_knows_a_part_only() -> None:
    program = exported(Call(counted(2)), torch.ones(3))
    assert graph_digest(program)
    next(iter(program.graph.nodes)).meta["val"] = object()
    with pytest.raises(UnknownPart, match="object"):
        graph_digest(program)


OWN_PASSES = """
import torch._inductor.config
from aoti_build._torch.compiling.settings import own_passes
assert not own_passes()
torch._inductor.config.post_grad_custom_pre_pass = lambda graph: None
assert own_passes()
"""


def test_passes_of_the_users_own_bind_the_code_to_their_sources() -> None:
    """In a process of its own: libraries such as torchao add passes when they are imported."""
    subprocess.run([sys.executable, "-c", OWN_PASSES], check=True)


def test_an_operator_of_the_users_own_binds_the_code_to_its_sources() -> None:
    library = torch.library.Library("aoti_build_test", "DEF")
    library.define("triple(Tensor x) -> Tensor")
    library.impl("triple", lambda x: x * 3, "CompositeImplicitAutograd")
    own = exported(Call(torch.ops.aoti_build_test.triple), torch.ones(4, 3))
    assert uses_own_code(own)
    assert not uses_own_code(exported(torch.nn.Linear(3, 4), torch.ones(2, 3)))

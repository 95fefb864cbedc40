"""Messages between the build process and its workers: what one side writes, the other reads; and
what is none is refused with the reason."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import ONE_MODEL, PASSED_CASE, write_project

from aoti_build import messages
from aoti_build.errors import ArtifactError, ExitCode, MessageError
from aoti_build.figures import CallFigures, OutputFigures, Part, as_json, typed
from aoti_build.messages import (
    JOBS,
    CheckJob,
    CompileJob,
    CompileResult,
    ErrorRecord,
    FreshJob,
    Message,
    Phase,
    Take,
    decode,
    encode,
)
from aoti_build.models_file.records import target_to_json

MODELS = """\
  other:
    source: package.module:build
    kwargs: {deep: {list: [1, 2.5, null, "é"]}}
    inputs: example.py:inputs
    dims: {batch: {min: 1, max: 8, example: 2}}
    weights: {file: weights.safetensors, rename: {old: new}}
    tolerance: {atol: 1, outputs: {output: {iou: 0.5}}}
"""
TYPES = tuple(
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and not get_args(kind)
    if kind not in (messages.Message, messages.Job, messages.TargetJob, messages.PackageJob)
)
COMPILE = CompileJob(root="/project", command=("c++", "-O1"), what="the runner")
# Names of files that are no UTF-8 have lone surrogates in them.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff"))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=5,
)
PLAIN: Mapping[Any, st.SearchStrategy[Any]] = {
    Any: JSON,
    str: TEXTS,
    int: st.integers(-(2**63), 2**63 - 1),
    float: FLOATS,
    bool: st.booleans(),
    type(None): st.none(),
    msgspec.UnsetType: st.just(msgspec.UNSET),
}


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Values of any type that stands in a message."""
    arguments = get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if isinstance(kind, UnionType):
        return st.one_of(*map(strategy, arguments))
    if get_origin(kind) is tuple and arguments[-1] is ...:
        return st.lists(strategy(arguments[0]), max_size=3).map(tuple)
    if get_origin(kind) is tuple:
        return st.tuples(*map(strategy, arguments))
    if get_origin(kind) is Mapping:
        return st.dictionaries(strategy(arguments[0]), strategy(arguments[1]), max_size=3)
    assert issubclass(kind, Part), kind
    fields = {field.name: strategy(field.type) for field in msgspec.structs.fields(kind)}
    if "target_document" in fields:
        fields["target_document"] = st.sampled_from(targets())
    return st.builds(kind, **fields)


@cache
def targets() -> list[dict[str, Any]]:
    """The JSON of a plain target and of one with most of what models.yaml can say."""
    with tempfile.TemporaryDirectory() as root:
        project = write_project(Path(root), ONE_MODEL + MODELS)
        documents = [target_to_json(target) for target in project.targets]
        return [json.loads(json.dumps(document)) for document in documents]


def on_the_way(message: Message) -> Any:
    """The document as the other side reads it."""
    return json.loads(json.dumps(encode(message), allow_nan=False))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_sent_is_what_arrives(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(strategy(kind))
    arrived = decode(on_the_way(message), kind)
    assert (type(arrived), arrived) == (kind, message)
    assert on_the_way(arrived) == on_the_way(message)


def test_the_types_are_all_there() -> None:
    assert {*JOBS.values(), *(job.result_type() for job in JOBS.values())} <= set(TYPES)
    assert {*messages.EVENTS, *messages.ANSWERS} <= set(TYPES)
    assert {job.result_type().type_name() for job in JOBS.values()} == {
        f"{job_name}-result" for job_name in JOBS
    }


def test_a_target_arrives_as_the_target_it_is(tmp_path: Path) -> None:
    (target,) = write_project(tmp_path).targets
    document = target_to_json(target)
    job = FreshJob(
        root="/", target_document=document, where={}, reference_data="/g", signature={}, seeds=1
    )
    assert decode(on_the_way(job), FreshJob).target == target


def test_the_form_on_the_wire() -> None:
    assert on_the_way(COMPILE) == {
        "format": "aoti-build/message",
        "format_version": 1,
        "type": "compile-job",
        "root": "/project",
        "command": ["c++", "-O1"],
        "what": "the runner",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "it has format version 2, and aoti_build .* reads 1"),
        ({"format_version": "1"}, "it has format version 1, and"),
        ({"format_version": True}, "it has format version True"),
        ({"format_version": None}, "it has format version None"),
        ({"format": "aoti-build/manifest"}, "its format is not aoti-build/message"),
        ({"type": "fresh-job"}, "it is a fresh-job, where a compile-job was expected"),
        ({"type": ["compile-job"]}, "where a compile-job was expected"),
        ({"type": None}, "where a compile-job was expected"),
        ({"colour": "red"}, "compile-job: .*unknown field `colour`"),
        ({"what": 7}, r"compile-job: Expected `str`, got `int` - at `\$\.what`"),
        ({"what": None}, r"compile-job: Expected `str`, got `null` - at `\$\.what`"),
        ({"command": "c++"}, r"compile-job: Expected `array`, got `str` - at `\$\.command`"),
        ({"command": ["c++", 7]}, r"compile-job: .*got `int` - at `\$\.command\[1\]`"),
        ({"command": "\udc80"}, "compile-job: .*surrogates"),
    ],
)
def test_another_message_is_refused_by_type_and_field(change: Mapping[str, Any], said: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode({**on_the_way(COMPILE), **change}, CompileJob, where="job.json")
    error = caught.value
    assert re.search(said, error.cause or ""), error.cause
    assert (error.where, error.exit_code) == ("job.json", ExitCode.UNFIT_TOOLCHAIN)
    assert "one release" in (error.hint or "")


@pytest.mark.parametrize("field", ["root", "command", "what"])
def test_a_message_that_lacks_a_field_is_refused(field: str) -> None:
    document = on_the_way(COMPILE)
    del document[field]
    assert f"compile-job: Object missing required field `{field}`" in refusal(document, CompileJob)


@pytest.mark.parametrize("document", [None, 3, "text", [], {}, [{"format": "aoti-build/message"}]])
def test_other_json_is_refused(document: Any) -> None:
    assert "its format is not" in refusal(document, CompileResult)


@pytest.mark.parametrize(
    "change", [{"surplus": 1}, {"device": "abacus"}, {"model": {}}, {"listed": 1}]
)
def test_a_job_with_a_target_that_is_none_is_refused(change: Mapping[str, Any]) -> None:
    document = {**targets()[0], **change}
    job = FreshJob(
        root="/", target_document=document, where={}, reference_data="/g", signature={}, seeds=1
    )
    assert refusal(on_the_way(job), FreshJob).startswith("fresh-job: $.target: ")


def test_a_place_deep_inside_is_named(tmp_path: Path) -> None:
    (target,) = write_project(tmp_path).targets
    document = on_the_way(
        CheckJob(
            root="/",
            target_document=target_to_json(target),
            model="/m",
            reference_data="/g",
            tolerance={},
            signature={},
            imports=(),
            runner=None,
        )
    )
    assert "`$.imports[0]`" in refusal({**document, "imports": [3]}, CheckJob)


def test_one_of_several_types_is_read_as_what_it_is() -> None:
    assert decode(on_the_way(Take(reference_data=True)), *messages.ANSWERS) == Take(
        reference_data=True
    )
    assert decode(on_the_way(Phase(name="export")), *messages.EVENTS) == Phase(name="export")
    assert (
        "a phase or stage or span or failure or keys-question or turn-question was expected"
        in refusal(on_the_way(Take(reference_data=True)), *messages.EVENTS)
    )


def test_messages_are_frozen() -> None:
    with pytest.raises(AttributeError):
        COMPILE.what = "another"  # type: ignore[misc]


def test_an_error_travels_with_all_that_it_says() -> None:
    error = ArtifactError("no", target="a/cpu", where="x:1", cause="because", hint="do")
    assert as_json(ErrorRecord.of(error)) == error.as_json()


def test_figures_stand_in_documents_as_they_were_found() -> None:
    found = {
        "name": "output",
        "ok": False,
        "shape": [2, 3],
        "max_rel": None,
        "worst": {"index": [0, 1], "expected": 7, "got": "nan"},
        "why": "it differs",
    }
    assert as_json(typed(found, OutputFigures)) == found
    assert as_json(typed(PASSED_CASE, CallFigures)) == PASSED_CASE
    with pytest.raises(ValueError, match="unknown field `colour`"):
        typed({**found, "colour": "red"}, OutputFigures)


def refusal(document: Any, *kinds: type[Message]) -> str:
    with pytest.raises(MessageError) as caught:
        decode(document, *kinds)
    return caught.value.cause or ""

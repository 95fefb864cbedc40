"""What to do with a graph that a worker has just exported: the store's package, its code, or a
compile."""

from __future__ import annotations

import contextlib

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, Manifest
from aoti_build.artifact.manifest_types import CheckRecord, InstructionsRecord, WeightsRecord
from aoti_build.artifact.verification import is_verified
from aoti_build.messages import Answer, Compile, KeysQuestion, Repack, Take
from aoti_build.models_file.project import Target
from aoti_build.work.context import BuildContext, Place
from aoti_build.work.worker import check_stopping


class ReuseDecision:
    """Answers the worker's question what to do, from its keys: the store's package, its code, or a
    compile.

    The lock of a graph's compile is held until `resources` is closed, which is after the artifact
    is in the store. Another target or build with the same graph waits, and then takes the code from
    there.
    """

    def __init__(
        self,
        context: BuildContext,
        target: Target,
        place: Place,
        resources: contextlib.ExitStack,
        *,
        from_nothing: bool,
    ) -> None:
        self._resources = resources
        self.store, self.place, self.from_nothing = context.store, place, from_nothing
        self.reference_data_limit = target.model.reference_data_limit
        self._on_phase, self._preflight = context.phases_of(target), context.preflight
        self._target = target
        # The latest answer to the worker; a worker that asks nothing compiles.
        self.chosen: Answer = Compile()
        self._hit: Manifest | None = None

    @property
    def weights(self) -> WeightsRecord | None:
        """Where the weights of what was taken or repacked lie; None after a compile, which finds
        out."""
        return self._hit.weights if self._hit else None

    @property
    def known_instructions(self) -> InstructionsRecord | None:
        """What the stored code was seen to use: that of a package taken or repacked is the same,
        byte for byte."""
        return self._hit.requires.get("instructions") if self._hit else None

    def known_check(self, target: Target, *, reference_data_kept: bool) -> CheckRecord | None:
        """An earlier check that still holds: of the package that was taken, against the same
        tolerance, and the reference data that the worker kept because eager gives the same
        again."""
        hit = self._hit
        if (
            hit is None
            or not isinstance(self.chosen, Take)
            or not reference_data_kept
            or not is_verified(hit, target)
        ):
            return None
        return {**hit.check, "seconds": 0.0}

    def answer(self, question: KeysQuestion) -> Answer:
        """Raises `ToolchainError` where a compile is needed and this host's compiler will not
        do."""
        stored: Answer | None = None
        if not self.from_nothing:
            stored = self._take(question) or self._repack(question)
            if stored is None and self._wait_for(question.graph_key):
                stored = self._take(question) or self._repack(question)
        if stored is None and self._preflight is not None:
            self._preflight.require(self._target)
        self.chosen = stored or Compile()
        return self.chosen

    def _wait_for(self, graph_key: str) -> bool:
        """Take the lock of a graph's compile. Returns whether another build held it."""
        waited = False

        def on_wait() -> None:
            nonlocal waited
            check_stopping()
            if not waited:
                self._on_phase("waiting for the same graph's compile")
            waited = True

        try:
            self._resources.enter_context(self.store.lock(graph_key, on_wait))
        except OSError:
            return False  # the store cannot be written to; at worst two builds compile this graph
        return waited

    def _take(self, question: KeysQuestion) -> Take | None:
        """The very package, and its reference data if that can be had."""
        hit = self.store.by_key(question.key)
        if hit is None or not self.store.get(hit.files[MODEL], self.place.staged / MODEL):
            return None
        self._hit = hit
        # With another limit, the reference data held less or more than models.yaml now asks for.
        same_limit = hit.source["spec"].get("reference_data.limit") == self.reference_data_limit
        reference_data = self.place.staged / REFERENCE_DATA
        return Take(
            reference_data=same_limit and self.store.get(hit.files[REFERENCE_DATA], reference_data)
        )

    def _repack(self, question: KeysQuestion) -> Repack | None:
        """A package of the same graph whose weights can be exchanged."""
        hit, template = self.store.by_graph(question.graph_key), self.place.work / "template.pt2"
        if hit is None or not self.store.get(hit.files[MODEL], template):
            return None
        self._hit = hit
        return Repack(template=str(template), alignment=hit.weights["alignment"])

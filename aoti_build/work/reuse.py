"""The reuse decision: the store's package, its code with new weights, or a compile."""

from __future__ import annotations

import contextlib

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, Manifest
from aoti_build.artifact.manifest_types import CheckRecord, InstructionsRecord, WeightsRecord
from aoti_build.artifact.verification import is_verified
from aoti_build.messages import Answer, Compile, KeysQuestion, Repack, Take
from aoti_build.models_file.project import Target
from aoti_build.work.context import BuildContext, Staging


class ReuseDecision:
    """Decides for one target, when a worker has exported its graph and computed the keys.

    `chosen` is the answer to the worker. It is `Compile` for a worker that does not ask.

    The lock of a graph's compile is held until `resources` is closed, which is after the artifact
    is in the store. Another build of the same graph waits for the lock and then reuses the code.
    """

    def __init__(
        self,
        context: BuildContext,
        target: Target,
        staging: Staging,
        resources: contextlib.ExitStack,
        *,
        from_nothing: bool,
    ) -> None:
        """With `from_nothing`, nothing is looked up in the store."""
        self.chosen: Answer = Compile()
        self._store = context.store
        self._preflight = context.preflight
        self._context = context
        self._target = target
        self._staging = staging
        self._resources = resources
        self._from_nothing = from_nothing
        self._stored: Manifest | None = None

    @property
    def weights(self) -> WeightsRecord | None:
        """Where the weights of the stored package are; None after a compile, which reports that
        itself."""
        return self._stored.weights if self._stored else None

    @property
    def known_instructions(self) -> InstructionsRecord | None:
        """The record of the instructions in the stored code; None after a compile.

        A reused or repacked package has the same code, byte for byte.
        """
        return self._stored.requires.get("instructions") if self._stored else None

    def valid_check(self, *, reference_data_kept: bool) -> CheckRecord | None:
        """The record of an earlier check that is still valid; None if the package must be checked.

        A check is valid for the same package, the same tolerance and the same reference data. The
        worker says with `reference_data_kept` whether eager mode gave the stored ones again.
        """
        stored = self._stored
        if stored is None or not isinstance(self.chosen, Take) or not reference_data_kept:
            return None
        if not is_verified(stored, self._target):
            return None
        return {**stored.check, "seconds": 0.0}

    def answer(self, question: KeysQuestion) -> Answer:
        """Decide, and return the answer for the worker.

        Raises `ToolchainError` if a compile is necessary and the host's compiler is unfit.
        """
        answer = None if self._from_nothing else self._answer_from_store(question)
        if answer is None:
            if self._preflight is not None:
                self._preflight.require(self._target)
            answer = Compile()
        self.chosen = answer
        return answer

    def _answer_from_store(self, question: KeysQuestion) -> Answer | None:
        answer = self._look_up(question)
        if answer is None and self._lock_compile(question.graph_key):
            # The build that held the lock may have stored the code.
            answer = self._look_up(question)
        return answer

    def _look_up(self, question: KeysQuestion) -> Answer | None:
        return self._reuse_package(question) or self._replace_weights(question)

    def _lock_compile(self, graph_key: str) -> bool:
        """Acquire the lock of a graph's compile. Returns whether another build held it."""
        with self._context.waiting(self._target, "waiting for the same graph's compile") as wait:
            try:
                self._resources.enter_context(self._store.lock(graph_key, wait))
            except OSError:
                # The store is read-only. At worst two builds compile this graph.
                return False
        return wait.happened

    def _reuse_package(self, question: KeysQuestion) -> Take | None:
        """Stage the stored package of the same graph and weights, and its reference data if
        possible."""
        stored = self._store.by_key(question.key)
        if stored is None:
            return None
        if not self._store.get(stored.files[MODEL], self._staging.artifact / MODEL):
            return None
        self._stored = stored
        # With another limit, the stored file has fewer or more tensors than models.yaml asks for.
        stored_limit = stored.source["spec"].get("reference_data.limit")
        if stored_limit != self._target.model.reference_data_limit:
            return Take(reference_data=False)
        path = self._staging.artifact / REFERENCE_DATA
        return Take(reference_data=self._store.get(stored.files[REFERENCE_DATA], path))

    def _replace_weights(self, question: KeysQuestion) -> Repack | None:
        """Stage a package of the same graph whose weights can be replaced."""
        stored = self._store.by_graph(question.graph_key)
        template = self._staging.directory / "template.pt2"
        if stored is None or not self._store.get(stored.files[MODEL], template):
            return None
        self._stored = stored
        return Repack(template=str(template), alignment=stored.weights["alignment"])

"""Takes samples: each is a fresh process that loads one model, warms up and times calls."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aoti_build.artifact.paths import reader_log_path
from aoti_build.messages import Job, MeasureJob, MeasureResult, PeerJob
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.worker import OnTurn, refuse_turn, run_worker, yaml_positions

SampleT = TypeVar("SampleT", bound=MeasureResult)

# What a sample times. A second holds many calls of a small model, and a large model needs longer.
SECONDS = 1.0
LEAST_CALLS = 5
TIME_LIMIT = 600.0  # seconds of a process
# Other libraries to compare with, by their distribution: the suffix of a converted model.
PEERS: Mapping[str, str] = {"onnxruntime": "onnx", "openvino": "xml"}


@dataclass(frozen=True)
class Sampler:
    """Takes samples of artifacts of `project`.

    `scratch` is a private directory for unpacked packages and converted models. It is removed by
    the caller. With `cuda_graphs` the calls of GPU packages are replayed. Samples raise the errors
    of `run_worker`.
    """

    project: Project
    scratch: Path
    cuda_graphs: bool = False

    def uses_graphs(self, target: Target) -> bool:
        """Whether the calls of the target are replayed from CUDA graphs."""
        return self.cuda_graphs and target.hardware.has_graphs

    def artifact(
        self,
        target: Target,
        *,
        contiguous_inputs: bool = False,
        on_turn: OnTurn | None = None,
    ) -> MeasureResult:
        """Time the target's artifact as a service calls it: through `aoti_build.load`.

        With `contiguous_inputs` the service does not know of the artifact's memory format, so the
        loader has to copy. With `on_turn` calls are timed in turns; see `take_in_turns`.
        """
        job = MeasureJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(target),
            where=yaml_positions(self.project, target),
            artifacts=str(self.project.artifacts),
            seconds=SECONDS,
            least_calls=LEAST_CALLS,
            cuda_graphs=self.uses_graphs(target),
            contiguous_inputs=contiguous_inputs,
            turns=on_turn is not None,
        )
        return self._run(job, target, on_turn)

    def peer(self, target: Target, library: str, *, on_turn: OnTurn | None = None) -> MeasureResult:
        """Time the target's model in another library. `on_turn` is as for `artifact`."""
        job = PeerJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(target),
            where=yaml_positions(self.project, target),
            library=library,
            converted=str(self.scratch / f"{target.model.name}.{PEERS[library]}"),
            seconds=SECONDS,
            least_calls=LEAST_CALLS,
            turns=on_turn is not None,
        )
        return self._run(job, target, on_turn)

    def _run(self, job: Job[SampleT], target: Target, on_turn: OnTurn | None) -> SampleT:
        with tempfile.TemporaryDirectory(prefix="aoti_build-") as directory:
            return run_worker(
                job,
                directory=Path(directory),
                log=reader_log_path(self.project, target, "tune"),
                # The caches of services stay as they are.
                environment={"AOTI_BUILD_RUNTIME_CACHE": str(self.scratch)},
                on_turn=on_turn or refuse_turn,
                limit=TIME_LIMIT,
            )

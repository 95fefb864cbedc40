"""The file of weights that is being loaded, for readers and for their errors."""

from __future__ import annotations

import os.path
from dataclasses import dataclass

from aoti_build.errors import UsageError
from aoti_build.models_file.project import Weights


@dataclass(frozen=True)
class WeightsSource:
    """`weights` as models.yaml declares them, and `where` it does (``models.yaml:9:14``)."""

    weights: Weights
    where: str

    def error(
        self,
        message: str,
        *,
        cause: str | None = None,
        hint: str | None = None,
    ) -> UsageError:
        """An error whose message begins with the file's name."""
        file_name = os.path.basename(self.weights.file)
        return UsageError(
            f"{file_name} {message}",
            where=self.where,
            cause=cause,
            hint=hint,
        )

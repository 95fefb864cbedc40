"""Triton's cache and inductor's autotuning results, backed by the store's kernels.

Triton is told by the environment (`TRITON_CACHE_MANAGER`) to keep its files through
`StoredKernels`, in the worker and in each of the processes in which inductor compiles kernels for
it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from triton.runtime.cache import FileCacheManager

from aoti_build.common.digests import digest_json
from aoti_build.store.kernels import KernelCache, tuning_files, write_tuning


class StoredKernels(FileCacheManager):  # type: ignore[misc]  # Triton has no types
    """Triton's own cache in the job's directory, for one kernel; what is not there is looked for in
    the store.

    Triton asks for a kernel's files as a group under the name of its metadata file, and declares
    the group when all of them are written; these are the moments at which a kernel comes from the
    store and goes to it. Other files (Triton's native launchers) stay with the job.
    """

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override=override, dump=dump)
        self._kernels = None if override or dump else KernelCache.of_environment()

    def get_group(self, filename: str) -> dict[str, str] | None:
        group: dict[str, str] | None = super().get_group(filename)
        if group or self._kernels is None:
            return group
        files = self._kernels.fetch(self.key)
        if files is None or filename not in files:
            return group
        group = {name: self.put(data, name) for name, data in files.items()}
        super().put_group(filename, group)
        return group

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        if self._kernels is not None:
            self._kernels.add(
                self.key, {name: Path(path).read_bytes() for name, path in group.items()}
            )
        path: str = super().put_group(filename, group)
        return path


@contextlib.contextmanager
def kept_tuning(cache: Path, switches: dict[str, str]) -> Iterator[None]:
    """Give a compile inside, whose inductor cache is the directory `cache`, what was measured
    before under the same `switches` of torch, and keep what it measures, also if it fails in the
    end."""
    kernels = KernelCache.of_environment()
    if kernels is None:
        yield
        return
    key = digest_json({"gpu": torch.cuda.get_device_name(), "switches": switches})[:32]
    write_tuning(cache, kernels.tuning(key))
    try:
        yield
    finally:
        if found := tuning_files(cache):
            kernels.add_tuning(key, found)

"""Triton's cache and inductor's autotuning results, backed by the store's kernels.

The environment variable `TRITON_CACHE_MANAGER` lets Triton keep its files through `StoredKernels`:
in the worker, and in each of the processes in which inductor compiles kernels for it.
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
    """Triton's own cache in the job's directory, for one kernel. Kernels that are not in it are
    taken from the store.

    Triton asks for a kernel's files as a group under the name of its metadata file, and declares
    the group after it has written all of them. At these two moments a kernel comes from the store
    and goes to it. Files outside groups (Triton's native launchers) stay with the job.
    """

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override=override, dump=dump)
        # Triton's modes for debugging must see only their own files.
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
            files = {name: Path(path).read_bytes() for name, path in group.items()}
            self._kernels.add(self.key, files)
        path: str = super().put_group(filename, group)
        return path


@contextlib.contextmanager
def kept_tuning(cache: Path, switches: dict[str, str]) -> Iterator[None]:
    """Give a compile inside the stored measurements, and store those that it makes, also if it
    fails.

    `cache` is the directory of its inductor cache. Measurements are stored for each GPU model and
    for each state of torch's `switches`.
    """
    kernels = KernelCache.of_environment()
    if kernels is None:
        yield
        return
    key = digest_json({"gpu": torch.cuda.get_device_name(), "switches": switches})[:32]
    write_tuning(cache, kernels.tuning(key))
    try:
        yield
    finally:
        measurements = tuning_files(cache)
        if measurements:
            kernels.add_tuning(key, measurements)

"""The GPU architectures that the files of a package have code for."""

from __future__ import annotations

from aoti_build.artifact.pt2.fatbin import NotFatbin, read_fatbin
from aoti_build.artifact.pt2.package import Archive
from aoti_build.common.elf import NotElf, read_gpu_binary


def architectures(archive: Archive, file: str) -> tuple[str, ...]:
    """The architectures of one file of GPU code.

    Empty if it cannot be read: vendors have more formats than this code knows.
    """
    read = archive.reader(file)
    try:
        if file.endswith(".cubin"):
            arch = read_gpu_binary(read).arch
            return (arch,) if arch else ()
        if file.endswith(".fatbin"):
            return read_fatbin(read)
    except (NotElf, NotFatbin):
        pass
    return ()


def common_architectures(archive: Archive) -> tuple[str, ...]:
    """The architectures that every file of GPU code in the package has code for.

    A GPU that can run one of these can run all files.
    """
    per_file = []
    for model in archive.models:
        for file in model.kernels:
            per_file.append(architectures(archive, file))
    if not per_file:
        return ()
    return tuple(arch for arch in per_file[0] if all(arch in file for file in per_file))

"""Which GPU architectures the files of a package hold code for."""

from __future__ import annotations

from aoti_build.artifact.pt2.fatbin import NotFatbin, read_fatbin
from aoti_build.artifact.pt2.package import Archive
from aoti_build.common.elf import NotElf, read_gpu_binary


def architectures(archive: Archive, file: str) -> tuple[str, ...]:
    """Of one file of GPU code; none if it cannot be read: nobody knows the formats of all vendors
    and years."""
    read = archive.reader(file)
    try:
        if file.endswith(".cubin"):
            arch = read_gpu_binary(read).arch
            return (arch,) if arch else ()
        return read_fatbin(read) if file.endswith(".fatbin") else ()
    except (NotElf, NotFatbin):
        return ()


def common_architectures(archive: Archive) -> tuple[str, ...]:
    """What every file of GPU code in the package holds, so that a GPU which can run one of these
    can run them all."""
    found = [architectures(archive, file) for model in archive.models for file in model.kernels]
    return (
        tuple(arch for arch in found[0] if all(arch in other for other in found)) if found else ()
    )

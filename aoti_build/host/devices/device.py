"""What a device is: all that the other parts ask of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol

from aoti_build.host.gpu_architectures import Rank

if TYPE_CHECKING:
    from aoti_build.host.checks.finding import Finding

# The architecture of a target that is compiled for whatever the building host has.
NATIVE = "native"


class Device(Protocol):
    """A kind of hardware that artifacts are built for.

    `architecture` is what models.yaml says that code is compiled for: `NATIVE`, or a name such as
    ``avx2`` or ``sm_80``. `needs` are the `requires` of a manifest. `index` counts the devices of
    this kind on the host, from 0.
    """

    # In models.yaml, manifests and directory names; also torch's name of the device type.
    name: str
    # The key below the device's own key in models.yaml that names architectures.
    architecture_key: str
    # The loader prefers the device with the highest number among those that fit.
    preference: int
    # Whether a host can have several, which are told apart by an index.
    is_indexed: bool
    # Whether builds must run one after another, since each measures kernels on the device.
    builds_alone: bool
    # Whether kernels are compiled by Triton, for a GPU.
    has_kernels: bool
    # The libraries of torch that a C++ program is linked with.
    torch_libraries: tuple[str, ...]

    def checks(self, *, memory: bool) -> Sequence[Finding]:
        """What the host lacks to build and run for the device. With `memory`, also whether the
        device has free memory."""
        ...

    def count(self) -> int:
        """How many of this device the host has."""
        ...

    def require_architecture(self, name: str) -> None:
        """Raise ValueError unless `name` is an architecture of this device or `NATIVE`."""
        ...

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        """What the host's tools and hardware contribute to the source key of a target."""
        ...

    def compile_options(self, architecture: str) -> dict[str, Any]:
        """The inductor options that compile for `architecture`; none for what inductor finds."""
        ...

    def allowed_instructions(self, architecture: str) -> Set[str] | None:
        """The instruction set extensions that host code may use; None for all of the host."""
        ...

    def cannot_build(self, architecture: str) -> str | None:
        """Why nothing can be built here for `architecture`, in words; None if it can."""
        ...

    def requirements(self, architecture: str) -> dict[str, Any]:
        """What an artifact needs of a processor and of a GPU, as the manifest records it."""
        ...

    def missing_device(self, index: int) -> str | None:
        """A sentence if the host has no device `index`."""
        ...

    def missing_for_architecture(self, needs: Mapping[str, Any], index: int = 0) -> list[str]:
        """A sentence for each thing of the named architecture that device `index` lacks."""
        ...

    def missing(self, needs: Mapping[str, Any], index: int = 0) -> list[str]:
        """A sentence for each thing that the processor and device `index` lack."""
        ...

    def code_rank(self, needs: Mapping[str, Any], index: int = 0) -> Rank | None:
        """How good the artifact's code is for device `index`, more is better; None if the device
        can run none of it."""
        ...

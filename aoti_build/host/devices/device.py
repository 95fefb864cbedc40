"""The interface of a device: everything that the other parts need from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol

from aoti_build.host.gpu_architectures import Rank

if TYPE_CHECKING:
    from aoti_build.common.json_object import JsonObject
    from aoti_build.host.checks.finding import Finding
    from aoti_build.host.facts import HostFacts

# The architecture of a target that is compiled for the hardware of the building host.
NATIVE = "native"


class Device(Protocol):
    """A kind of hardware that artifacts are built for.

    An `architecture` is the text in models.yaml that names what code is compiled for: `NATIVE`, or
    a name such as ``avx2`` or ``sm_80``. `needs` are the `requires` of a manifest. An `index`
    counts the devices of this kind on the host, from 0. Methods with a `host` judge that value; the
    others look at the machine they run on.
    """

    # In models.yaml, manifests and directory names; also torch's name of the device type.
    name: str
    # The key in models.yaml, below the device's own key, that names architectures.
    architecture_key: str
    # Of several devices that fit, the loader prefers the one with the highest number.
    preference: int
    # Whether a host can have several devices, which are told apart by an index.
    is_indexed: bool
    # Whether builds must run one after another, since each measures kernels on the device.
    builds_alone: bool
    # Whether Triton compiles kernels for the device, as for a GPU.
    has_kernels: bool
    # Whether calls can be recorded and replayed as CUDA graphs.
    has_graphs: bool
    # The libraries of torch that a C++ program is linked with.
    torch_libraries: tuple[str, ...]

    def checks(self, *, memory: bool) -> Sequence[Finding]:
        """What this machine needs to build and run for the device, as findings.

        With `memory`, also whether the device has free memory.
        """
        ...

    def count(self) -> int:
        """The number of devices of this kind on this machine."""
        ...

    def capabilities(self) -> tuple[str, ...]:
        """The compute capability of each GPU of this machine; empty for other devices."""
        ...

    def host_class(self) -> str | None:
        """The class of this machine, by which tuned.yaml tells hosts apart.

        Two machines of one class are expected to prefer the same options. None without the device.
        """
        ...

    def require_architecture(self, name: str) -> None:
        """Raise ValueError unless `name` is an architecture of this device or `NATIVE`."""
        ...

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        """The facts about this machine's tools and hardware in the source key of a target."""
        ...

    def compile_options(self, architecture: str) -> JsonObject:
        """The inductor options that compile for `architecture`; none for `NATIVE`."""
        ...

    def allowed_instructions(self, architecture: str) -> Set[str] | None:
        """The instruction set extensions that host code may use; None for all of the host."""
        ...

    def cannot_build(self, architecture: str) -> str | None:
        """Why this machine cannot build for `architecture`, in words; None if it can."""
        ...

    def requirements(self, architecture: str, host: HostFacts) -> JsonObject:
        """The processor and GPU that an artifact requires, as the manifest records them."""
        ...

    def missing_device(self, host: HostFacts, index: int) -> str | None:
        """A sentence if the host has no device `index`."""
        ...

    def missing_for_architecture(
        self,
        needs: Mapping[str, Any],
        host: HostFacts,
        index: int = 0,
    ) -> list[str]:
        """A sentence for each feature of the named architecture that device `index` lacks."""
        ...

    def missing(self, needs: Mapping[str, Any], host: HostFacts, index: int = 0) -> list[str]:
        """A sentence for each feature that the processor or device `index` lacks."""
        ...

    def code_rank(
        self,
        needs: Mapping[str, Any],
        host: HostFacts,
        index: int = 0,
    ) -> Rank | None:
        """How good the artifact's code is for device `index`; None if the device can run none."""
        ...

"""The devices that artifacts are built for: each is one module and one entry in the registry."""

from __future__ import annotations

from aoti_build.host.devices.cpu import Cpu
from aoti_build.host.devices.cuda import Cuda
from aoti_build.host.devices.device import NATIVE, Device

__all__ = [
    "NATIVE",
    "Device",
    "device_named",
    "device_names",
    "register",
    "unregister",
]

_registry: dict[str, Device] = {}


def register(device: Device) -> None:
    """Make `device` known by its name, in models.yaml and everywhere else."""
    _registry[device.name] = device


def unregister(name: str) -> None:
    del _registry[name]


def device_named(name: str) -> Device:
    """The device of that name. Raises KeyError if there is none."""
    return _registry[name]


def device_names() -> tuple[str, ...]:
    """The names of all devices, in the order of their registration."""
    return tuple(_registry)


register(Cpu())
register(Cuda())

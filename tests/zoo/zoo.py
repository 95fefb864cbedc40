"""All entries of the zoo."""

from __future__ import annotations

import zoo_diffusers
import zoo_quantised
import zoo_shipped
import zoo_stateful
import zoo_timm
import zoo_torch
import zoo_torchvision
import zoo_transformers
from entry import Entry

ENTRIES: tuple[Entry, ...] = (
    *zoo_torch.ENTRIES,
    *zoo_torchvision.ENTRIES,
    *zoo_timm.ENTRIES,
    *zoo_transformers.ENTRIES,
    *zoo_diffusers.ENTRIES,
    *zoo_quantised.ENTRIES,
    *zoo_stateful.ENTRIES,
    *zoo_shipped.ENTRIES,
)

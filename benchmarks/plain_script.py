"""The tutorial's way without a build tool: export resnet18, compile and package, load it, compare
with eager."""

from __future__ import annotations

import sys

import torch
import torchvision

torch.manual_seed(0)
model = torchvision.models.resnet18().eval()
image = torch.randn(2, 3, 224, 224)
with torch.no_grad():
    program = torch.export.export(model, (image,))
    if "--export-only" not in sys.argv:
        package = torch._inductor.aoti_compile_and_package(program, package_path="resnet18.pt2")
        loaded = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(loaded(image), model(image), atol=1e-3, rtol=1e-3)

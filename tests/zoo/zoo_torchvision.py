"""torchvision's networks, at small images."""

from __future__ import annotations

from entry import Entry


def _image_model(
    name: str, size: int = 64, extra: str = "", highest: int = 12, **how: object
) -> Entry:
    return Entry(
        name,
        "torchvision",
        f"""
        source: torchvision.models:{name}
        kwargs: {{weights: null{extra}}}
        dims: {{batch: {{min: 1, max: {highest}}}}}
        inputs: [{{shape: [batch, 3, {size}, {size}]}}]
        """,
        **how,  # type: ignore[arg-type]
    )


DETECTOR = """
from torchvision.models import detection

def build(name):
    make = getattr(detection, name)
    return make(weights=None, weights_backbone=None, num_classes=5, min_size=64, max_size=64)

def images():
    import torch
    return ([torch.rand(3, 64, 64)],)
"""

ENTRIES = [
    _image_model("resnet18", ci=True),
    _image_model("convnext_tiny", ci=True),
    _image_model("swin_t"),
    _image_model("efficientnet_b0", highest=9),
    _image_model("mobilenet_v3_small"),
    _image_model("densenet121", highest=9),
    _image_model("regnet_y_400mf"),
    _image_model("shufflenet_v2_x0_5", ci=True),
    _image_model("squeezenet1_1"),
    Entry(
        "vit",
        "torchvision",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 16}}
        inputs: [{shape: [batch, 3, 32, 32]}]
        """,
        """
        from torch import nn
        from torchvision.models import VisionTransformer

        def build():
            model = VisionTransformer(
                32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
            )
            # torchvision makes this weight zero, and every output with it.
            nn.init.normal_(model.heads.head.weight)
            return model
        """,
        ci=True,
    ),
    Entry(
        "mvit_v2",
        "torchvision",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 8}}
        inputs: [{shape: [batch, 3, 4, 32, 32]}]
        """,
        """
        from torchvision.models.video.mvit import MSBlockConfig, MViT

        def build():
            blocks = [
                MSBlockConfig(heads, width, out, [3, 3, 3], [3, 3, 3], [1, step, step], [1, 4, 4])
                for heads, width, out, step in [(1, 32, 32, 1), (2, 32, 64, 2), (2, 64, 64, 1)]
            ]
            return MViT(
                (32, 32),
                4,
                blocks,
                residual_pool=True,
                residual_with_cls_embed=False,
                rel_pos_embed=True,
                proj_after_attn=True,
                num_classes=10,
            )
        """,
    ),
    Entry(
        "r3d_18",
        "torchvision",
        """
        source: torchvision.models.video:r3d_18
        kwargs: {weights: null}
        dims: {batch: {min: 1, max: 8}}
        inputs: [{shape: [batch, 3, 4, 32, 32]}]
        """,
    ),
    Entry(
        "lraspp_mobilenet_v3_large",
        "torchvision",
        """
        source: torchvision.models.segmentation:lraspp_mobilenet_v3_large
        kwargs: {weights: null, weights_backbone: null}
        dims: {batch: {min: 1, max: 9}}
        inputs: [{shape: [batch, 3, 64, 64]}]
        """,
    ),
    Entry(
        "raft_small",
        "torchvision",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 6}}
        inputs:
          - {shape: [batch, 3, 128, 128], low: -1, high: 1}
          - {shape: [batch, 3, 128, 128], low: -1, high: 1}
        """,
        """
        from torchvision.models.optical_flow import raft_small

        def build():
            model = raft_small(weights=None)
            model.forward.__func__.__defaults__ = (2,)  # two refinements, not twelve
            return model
        """,
        bound=1e-2,
    ),
    Entry(
        "fasterrcnn_mobilenet",
        "torchvision",
        """
        source: nets.py:build
        kwargs: {name: fasterrcnn_mobilenet_v3_large_320_fpn}
        inputs: nets.py:images
        """,
        DETECTOR,
        kind="custom operators",
        refused=("decides by the values of a tensor", "torchvision/ops/boxes.py", "nms"),
    ),
    Entry(
        "ssdlite",
        "torchvision",
        """
        source: nets.py:build
        kwargs: {name: ssdlite320_mobilenet_v3_large}
        inputs: nets.py:images
        """,
        """
        import torch
        from torchvision.models import detection

        def build(name):
            return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5)

        def images():
            return ([torch.rand(3, 64, 64)],)
        """,
        kind="custom operators",
        refused=("decides by the values of a tensor", "torchvision/ops/boxes.py", "nms"),
    ),
    Entry(
        "roi_head",
        "torchvision",
        """
        source: nets.py:Head
        dims: {boxes: {min: 1, max: 32, example: 6}}
        inputs: nets.py:inputs
        """,
        """
        import torch
        from torch import nn
        from torchvision.ops import DeformConv2d, roi_align

        class Head(nn.Module):
            def __init__(self):
                super().__init__()
                self.offset = nn.Conv2d(8, 18, 3, padding=1)
                self.deform = DeformConv2d(8, 8, 3, padding=1)
                self.classes = nn.Linear(8 * 9, 4)

            def forward(self, features, boxes):
                features = self.deform(features, self.offset(features))
                cut = roi_align(features, boxes, output_size=3, sampling_ratio=2)
                return self.classes(cut.flatten(1))

        def inputs(boxes):
            corners = torch.rand(boxes, 2) * 8
            features = torch.randn(2, 8, 16, 16)
            image = torch.randint(0, 2, (boxes, 1))
            return features, torch.cat([image, corners, corners + 6], 1)
        """,
        kind="custom operators",
        ci=True,
    ),
    Entry(
        "nms",
        "torchvision",
        """
        source: nets.py:Boxes
        dims: {boxes: {min: 1, max: 64, example: 20}}
        inputs: nets.py:inputs
        """,
        """
        import torch
        from torch import nn
        from torchvision.ops import nms

        class Boxes(nn.Module):
            def forward(self, boxes, scores):
                return nms(boxes, scores, 0.5)

        def inputs(boxes):
            corners = torch.rand(boxes, 2) * 8
            corners += torch.arange(boxes)[:, None] % max(2, boxes // 2) * 20  # two overlap
            return torch.cat([corners, corners + 10], 1), torch.rand(boxes)
        """,
        kind="custom operators",
    ),
]

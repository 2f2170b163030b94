from __future__ import annotations

import torch
from torch import nn

STAGES = [
    {"channels": 16, "stride": 2, "activation": "relu", "se": False},
    {"channels": 24, "stride": 2, "activation": "hswish", "se": True},
]
SETTINGS = {
    "classes": 10, "in_channels": 1, "resolutions": [8, 10], "widths": [1.0], "stem_stride": 1, "stages": STAGES,
    "depths": [1, 2, 3], "expands": [2, 3, 4], "head_channels": [48, 64],
}  # fmt: skip


@torch.no_grad()
def disturb(module: nn.Module, seed: int = 0) -> None:
    """Give norms and kernel matrices values as after training, so that no term is neutral."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            part.weight.uniform_(0.5, 1.5, generator=generator)
            part.bias.normal_(generator=generator)
    for name, parameter in module.named_parameters():
        if ".matrix_" in name or name.endswith(("reduce.bias", "expand.bias")):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

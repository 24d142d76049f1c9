"""Muon, an optimizer that needed fewer steps than AdamW in our trials; `studies prompt_following` compares them."""
from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

HIDDEN = 16    # channels on both sides, at least: what pixels, latents and pictures pass through stays with AdamW


class Muon(torch.optim.AdamW):
    """AdamW, but matrices between hidden layers move along their momentum made orthogonal.

    So all directions of a matrix are learned equally fast, also those in which gradients are small. Jordan et al. 2024,
    kellerjordan.github.io/posts/muon; the step's length is that of Liu et al. 2025 (arXiv:2502.16982), for which the
    learning rate of AdamW will do. torch.optim.Muon takes no convolutions, which are matrices (out, in × k × k) here.
    """

    def __init__(self, model: nn.Module, lr: float, momentum: float = 0.95, **options):
        super().__init__([p for p in model.parameters() if p.requires_grad], lr, **options)
        self.momentum = momentum
        self.matrices = [layer.weight for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))
                         and layer.weight.requires_grad and min(layer.weight.shape[:2]) >= HIDDEN]

    @torch.no_grad()
    def step(self) -> None:
        group, alike, moving = self.param_groups[0], defaultdict(list), [p for p in self.matrices if p.grad is not None]
        for p in moving:
            if not self.state[p]:    # AdamW wants a step in every state that it loads
                self.state[p].update(step=torch.zeros(()), momentum=torch.zeros_like(p))
        gradients, averages = [p.grad for p in moving], [self.state[p]["momentum"] for p in moving]
        torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
        for p, update in zip(moving, torch._foreach_lerp(gradients, averages, self.momentum)):    # Nesterov's
            alike[p.shape].append((p, update.flatten(1)))
            p.grad = None    # AdamW passes over it
        for shape, moved in alike.items():
            updates = orthogonal(torch.stack([update for _, update in moved]))            # (N, a, b)
            updates = updates * (-group["lr"] * 0.2 * max(updates.shape[1:])**0.5)
            matrices = [p for p, _ in moved]
            if group["weight_decay"]:
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, [update.view(shape) for update in updates])
        super().step()


def orthogonal(x: Tensor, steps: int = 3) -> Tensor:
    """Matrices (N, a, b) with the same singular vectors and singular values pushed towards 1, by Newton and Schulz."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if turned := x.shape[1] > x.shape[2]:
        x = x.mT
    square, product = x @ x.mT, None
    for step in range(steps):    # five are usual; three cost a seventh of a step on a CPU, and serve
        factor = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        factor.diagonal(dim1=1, dim2=2).add_(3.4445)
        product = factor if step == 0 else factor @ product    # x follows in the end: the factors are smaller
        if step < steps - 1:
            square = factor @ square @ factor
    x = product @ x
    return x.mT if turned else x

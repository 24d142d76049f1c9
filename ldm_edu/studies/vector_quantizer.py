"""Vector quantisation, the other way to regularise latents (VQ-VAE, VQGAN)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VectorQuantizer(nn.Module):
    """Replace every latent pixel by the nearest of `size` learned vectors, the codes: `codebook`, (size, channels).

    commitment: weight of pulling latents to codes; pulling codes to latents has weight 1. van den Oord et al. 2017
    (VQ-VAE, arXiv:1711.00937), eq. 1 to 3; Esser et al. 2020 (VQGAN, arXiv:2012.09841), eq. 2 and 4.
    """

    def __init__(self, size: int, channels: int = 4, commitment: float = 0.25):
        super().__init__()
        self.commitment = commitment
        self.codebook = nn.Parameter(torch.empty(size, channels).uniform_(-1 / size, 1 / size))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent (B, channels, h, w) -> the codes in its place (same shape), the loss (), their numbers (B, h, w)."""
        vectors = z.movedim(1, -1)                                                        # (B, h, w, channels)
        with torch.no_grad():
            numbers = torch.cdist(vectors.flatten(0, 2), self.codebook).argmin(1).view(vectors.shape[:3])
        codes = self.codebook[numbers].movedim(-1, 1)                                     # (B, channels, h, w)
        loss = F.mse_loss(codes, z.detach()) + self.commitment * F.mse_loss(z, codes.detach())
        return z + (codes - z).detach(), loss, numbers    # choosing has no gradient: the decoder's passes straight to z


def perplexity(numbers: Tensor, size: int) -> Tensor:
    """Effective number of codes in use: e to the entropy of their shares, from 1 to `size`. Any shape -> ()."""
    shares = torch.bincount(numbers.flatten(), minlength=size) / numbers.numel()
    return torch.special.entr(shares).sum().exp()

"""Train the first stage: the autoencoder."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from ..autoencoder import TINY, Autoencoder
from ..perceptual import LPIPS, PatchDiscriminator, adaptive_weight, adversarial_loss, hinge_loss
from ..tiny_worlds.datasets import to_float
from ..tiny_worlds.things import CLASSES
from ..training import pick_batch
from ..weights import save_module
from .profiles import Profile, Recipe, step_of, training_scenes


@dataclass(frozen=True)
class LossWeights:
    """How much each part of the autoencoder's loss counts; 0 leaves it out."""

    l1: float = 1.0
    l2: float = 2.0
    perceptual: float = 0.5
    kl: float = 3e-4                 # just enough to keep the latents small
    adversarial: float = 0.0         # times the adaptive weight
    adversarial_start: int = 0       # steps before the decoder sees the discriminator, which learns from the first
    discriminator: float = 0.01      # small: both sides share one clipped gradient, and Adam learns as fast


SHIPPED = LossWeights(adversarial=0.1, adversarial_start=600)    # what the autoencoder in data/ was trained with


class FirstStage(nn.Module):
    """An autoencoder and its losses, LPIPS and a discriminator that learns against it.

    Rombach et al. 2021, eq. 25; VQGAN (Esser et al. 2020), eq. 5 to 7.
    """

    def __init__(self, autoencoder: Autoencoder, lpips: LPIPS | None = None, weights: LossWeights = LossWeights()):
        super().__init__()
        self.autoencoder, self.weights = autoencoder, weights
        self.lpips = lpips if weights.perceptual else None
        self.discriminator = PatchDiscriminator() if weights.adversarial else None

    def forward(self, x: Tensor, generator: Generator, pixel_weight: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the parts of the loss, to be summed, on images x (B, 3, H, W).

        pixel_weight: (B, 1, H, W), how much each pixel counts in l1 and l2; by default all count the same.
        """
        w, pixel_weight = self.weights, torch.ones_like(x) if pixel_weight is None else pixel_weight.expand_as(x)
        mean, logvar = self.autoencoder.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        decoded = self.autoencoder.decode(mean + (0.5 * logvar).exp() * noise)
        error, share = decoded - x, pixel_weight / pixel_weight.mean()
        parts = {"l1": w.l1 * (share * error.abs()).mean(), "l2": w.l2 * (share * error.square()).mean()}
        if w.perceptual:
            parts["perceptual"] = w.perceptual * self.lpips(decoded, x).mean()
        if w.adversarial:
            parts |= self._adversarial(decoded, x, sum(parts.values()), step_of(generator) >= w.adversarial_start)
        return parts | {"kl": w.kl * 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()}

    def _adversarial(self, decoded: Tensor, x: Tensor, reconstruction: Tensor, begun: bool) -> dict[str, Tensor]:
        """Both sides of the game; each sees the other as a constant, so that one optimizer can train both."""
        net, listen, fooled = self.discriminator, 0.0, torch.zeros((), device=x.device)
        parts = {"discriminator": self.weights.discriminator * hinge_loss(net(x), net(decoded.detach()))}
        if begun:
            constants = {name: p.detach() for name, p in net.named_parameters()}
            fooled = adversarial_loss(functional_call(net, constants, decoded))
            listen = adaptive_weight(reconstruction, fooled, self.autoencoder.decoder.conv_out.weight)
        return parts | {"adversarial": self.weights.adversarial * listen * fooled}


def pixel_weights(maps: Tensor) -> Tensor:
    """Weigh pixels: 1 for background, up to 25 for small things. Classes (B, H, W) -> (B, 1, H, W)."""
    share = F.one_hot(maps.long(), len(CLASSES)).float().mean((1, 2))                     # (B, classes)
    weight = (0.3 / share).clamp(max=24)    # all pixels of a kind together count as 0.3 pictures, however few they are
    weight[:, :CLASSES.index("sun or moon") + 1] = 0
    return 1 + weight.gather(1, maps.long().flatten(1)).view_as(maps).unsqueeze(1)


@torch.no_grad()
def encode_all(images: Tensor, autoencoder: Autoencoder) -> Tensor:
    """Encode uint8 images (N, 3, H, W) as scaled latents (N, 4, h, w), a hundred at a time."""
    parts = tqdm(images.split(100), desc="latents", unit="x100", leave=False)
    return torch.cat([autoencoder.to_latent(to_float(part)) for part in parts])


def set_scale(autoencoder: Autoencoder, images: Tensor) -> None:
    """Set the scale factor that gives the latents of these uint8 images (N, 3, H, W) unit variance."""
    std = encode_all(images[:2048], autoencoder).std().item()
    autoencoder.config = replace(autoencoder.config, scale=autoencoder.config.scale / std)


def autoencoder_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train the autoencoder with the full loss, LPIPS over `root`'s feature net."""
    images, maps = (part.to(device) for part in training_scenes(profile.scenes))

    def loss_fn(model: FirstStage, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        return model(to_float(images[pick]), generator, pixel_weights(maps[pick]))

    loss_fn.branch = lambda generator: step_of(generator) >= SHIPPED.adversarial_start

    def save(model: FirstStage) -> Path:
        set_scale(model.autoencoder, images)
        save_module(model.autoencoder, folder := root / "tiny-worlds/vae", dtype=torch.float16)
        return folder

    return FirstStage(Autoencoder(TINY), LPIPS.tiny(root / "features/model.safetensors"), SHIPPED), loss_fn, save

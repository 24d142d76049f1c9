"""Train the first stage: the autoencoder, and its decoder alone."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from ..autoencoder import TINY, Autoencoder
from ..perceptual import LPIPS, PatchDiscriminator, adaptive_weight, adversarial_loss, hinge_loss
from ..support.distributed import processes, wait_for_all
from ..support.files import read_tensors, write_tensors
from ..tiny_worlds.datasets import render, seeds_of, to_float
from ..tiny_worlds.scenes import make_scene
from ..tiny_worlds.things import CLASSES
from ..training import pick_batch
from ..weights import load_autoencoder, save_module
from .profile import Profile, Recipe


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
    anchor: float = 0.5              # for latents that a U-Net has learned already and that should hardly move


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
        self.register_buffer("steps", torch.tensor(0))    # saved with the weights, so that a resumed run can go on

    def forward(self, x: Tensor, generator: Generator, pixel_weight: Tensor | None = None,
                anchor: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the parts of the loss, to be summed, on images x (B, 3, H, W).

        pixel_weight: as in `compare`. anchor: (B, 4, h, w), scaled latents that those of x should stay near.
        """
        mean, logvar = self.autoencoder.encode(x)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = self.autoencoder.decode(mean + (0.5 * logvar).exp() * noise)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        parts = self.compare(decoded, x, pixel_weight) | {"kl": self.weights.kl * kl}
        if anchor is not None:
            parts["anchor"] = self.weights.anchor * (self.autoencoder.config.scale * mean - anchor).square().mean()
        return parts

    def compare(self, decoded: Tensor, x: Tensor, pixel_weight: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the parts of the loss that compare decoded images with the originals x, both (B, 3, H, W).

        pixel_weight: (B, 1, H, W), how much each pixel counts in l1 and l2; by default all count the same.
        """
        w, error = self.weights, decoded - x
        pixel_weight = torch.ones_like(error) if pixel_weight is None else pixel_weight.expand_as(error)
        pixel_weight = pixel_weight / pixel_weight.mean()
        parts = {"l1": w.l1 * (pixel_weight * error.abs()).mean(), "l2": w.l2 * (pixel_weight * error.square()).mean()}
        if w.perceptual:
            parts["perceptual"] = w.perceptual * self.lpips(decoded, x).mean()
        if w.adversarial:
            parts |= self._adversarial(decoded, x, sum(parts.values()))
        self.steps += self.training
        return parts

    def _adversarial(self, decoded: Tensor, x: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Both sides of the game; each sees the other as a constant, so that one optimizer can train both."""
        net, listen, fooled = self.discriminator, 0.0, torch.zeros((), device=x.device)
        parts = {"discriminator": self.weights.discriminator * hinge_loss(net(x), net(decoded.detach()))}
        if self.steps >= self.weights.adversarial_start:
            constants = {name: p.detach() for name, p in net.named_parameters()}
            fooled = adversarial_loss(functional_call(net, constants, decoded))
            listen = adaptive_weight(reconstruction, fooled, self.autoencoder.decoder.conv_out.weight)
        return parts | {"adversarial": self.weights.adversarial * listen * fooled}


def pixel_weights(maps: Tensor) -> Tensor:
    """Per-pixel loss weights: 1 for background, up to 25 for small things. Classes (B, H, W) -> (B, 1, H, W)."""
    share = F.one_hot(maps.long(), len(CLASSES)).float().mean((1, 2))                     # (B, classes)
    weight = (0.3 / share).clamp(max=24)    # all pixels of a kind together count as 0.3 pictures, however few they are
    weight[:, :CLASSES.index("sun or moon") + 1] = 0
    return 1 + weight.gather(1, maps.long().flatten(1)).view_as(maps).unsqueeze(1)


def pick_occluded(crowded: Tensor, batch: int, generator: Generator) -> Tensor:
    """Draw `batch` indices into crowded (N,), bool: half of them where it is true, if anywhere, the others uniform."""
    pick = pick_batch(len(crowded), batch, generator)
    where = crowded.nonzero().flatten()
    if len(where):
        pick[:batch // 2] = where[pick_batch(len(where), batch // 2, generator)]
    return pick


@torch.no_grad()
def encode_all(images: Tensor, autoencoder: Autoencoder, device: torch.device) -> Tensor:
    """Encode uint8 images (N, 3, H, W) as scaled latents (N, 4, h, w), on the CPU."""
    parts = tqdm(images.split(100), desc="latents", unit="x100")
    return torch.cat([autoencoder.to_latent(to_float(part.to(device))).cpu() for part in parts])


def cached_latents(images: Tensor, encoder: Autoencoder, out: Path, device: torch.device) -> Tensor:
    """Encode uint8 images (N, 3, 64, 64) as latents (N, 4, 8, 8), or read them from the last time's file."""
    weights = b"".join(p.detach().half().cpu().numpy().tobytes() for p in encoder.encoder.parameters())
    name = f"latents-{hashlib.sha256(weights).hexdigest()[:12]}-{len(images)}"    # another encoder, another file
    path = out.parent / "training" / f"{name}.safetensors"
    if not path.exists() and processes()[0] == 0:
        write_tensors(path, {"latents": encode_all(images, encoder, device)})
    wait_for_all()
    return read_tensors(path)["latents"]


def set_scale(autoencoder: Autoencoder, images: Tensor, device: torch.device) -> None:
    """Set the scale factor that gives the latents of these uint8 images (N, 3, H, W) unit variance."""
    std = encode_all(images[:2048], autoencoder, device).std().item()
    autoencoder.config = replace(autoencoder.config, scale=autoencoder.config.scale / std)


def autoencoder_recipe(profile: Profile, out: Path, device: torch.device, warm: bool) -> Recipe:
    """Train the autoencoder with the full loss; half of each batch are scenes with things in front of others.

    warm: start from `out`/vae and keep its latents near where they were, for the U-Net that draws in them.
    """
    images, maps = render("train", profile.scenes)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]
    crowded = torch.tensor([any(thing.front for thing in scene.things) for scene in scenes])
    autoencoder = load_autoencoder(out / "vae") if warm else Autoencoder(TINY)
    anchors = cached_latents(images, autoencoder.eval().to(device), out, device) if warm else None

    def loss_fn(model: FirstStage, generator: Generator) -> dict[str, Tensor]:
        pick = pick_occluded(crowded, profile.batch, generator)
        anchor = anchors[pick].to(device) if warm else None
        return model(to_float(images[pick].to(device)), generator, pixel_weights(maps[pick].to(device)), anchor)

    def save(model: FirstStage) -> None:
        set_scale(model.autoencoder, images, device)
        save_module(model.autoencoder, out / "vae", dtype=torch.float16)

    return FirstStage(autoencoder, LPIPS.tiny(), SHIPPED), loss_fn, save


def decoder_recipe(profile: Profile, out: Path, device: torch.device, warm: bool) -> Recipe:
    """Train the decoder of `out`/vae further, warm or not; the latents, and a U-Net that draws in them, stay valid.

    Stability AI's sd-vae-ft-mse improved Stable Diffusion v1's decoder in the same way.
    """
    autoencoder = load_autoencoder(out / "vae")
    images, maps = render("train", profile.scenes)
    latents = cached_latents(images, autoencoder.eval().to(device), out, device)
    autoencoder.encoder.requires_grad_(False)
    autoencoder.quant_conv.requires_grad_(False)

    def loss_fn(model: FirstStage, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        z = latents[pick]
        z = z + 0.05 * torch.randn(z.shape, generator=generator)    # those that a U-Net draws are not perfect either
        decoded = model.autoencoder.from_latent(z.to(device))
        return model.compare(decoded, to_float(images[pick].to(device)), pixel_weights(maps[pick].to(device)))

    return (FirstStage(autoencoder, LPIPS.tiny(), SHIPPED), loss_fn,
            lambda model: save_module(model.autoencoder, out / "vae", dtype=torch.float16))

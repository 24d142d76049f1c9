"""Training the first stage: the feature net under our LPIPS, the autoencoder, and its decoder alone.

Each recipe returns the module to train, its loss, and how to save the averaged weights; `recipes` runs them. With
`warm` the module starts from the weights in `out`, not from random ones.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from ..autoencoder import TINY, Autoencoder
from ..perceptual import LPIPS, PatchDiscriminator, adaptive_weight, adversarial_loss, hinge_loss
from ..support.distributed import processes
from ..support.files import read_tensors, write_tensors
from ..tiny_worlds.datasets import render, seeds_of, to_float
from ..tiny_worlds.scenes import make_scene
from ..tiny_worlds.things import CLASSES
from ..training import pick_batch
from ..weights import load_autoencoder, save_module
from .profile import Profile

# --- The autoencoder ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class LossWeights:
    """How much each part of the autoencoder's loss counts; 0 leaves it out."""

    l1: float = 1.0
    l2: float = 2.0
    perceptual: float = 0.5
    kl: float = 3e-4                 # just strong enough to keep the latents tame
    adversarial: float = 0.0         # times the adaptive weight
    adversarial_start: int = 0       # steps before the discriminator is listened to; it learns from the first
    discriminator: float = 0.01      # small, lest it fill the clipped gradient of both; Adam learns as fast
    anchor: float = 0.5              # how far latents may move that something has learned to draw in already


SHIPPED = LossWeights(adversarial=0.1, adversarial_start=600)    # what the autoencoder in data/ was trained with


class FirstStage(nn.Module):
    """An autoencoder and what judges it while it learns: LPIPS, and a discriminator that learns against it.

    One optimizer serves both sides: the decoder's loss sees the discriminator's weights as constants, and the
    discriminator's loss sees the decoded images as constants. Rombach et al. 2021, eq. 25; VQGAN, eq. 5 to 7.
    """

    def __init__(self, autoencoder: Autoencoder, lpips: LPIPS | None = None, weights: LossWeights = LossWeights()):
        super().__init__()
        if weights.perceptual and lpips is None:
            raise ValueError(f"lpips: got None, but its weight is {weights.perceptual}")
        self.autoencoder, self.weights = autoencoder, weights
        self.lpips = lpips if weights.perceptual else None
        self.discriminator = PatchDiscriminator() if weights.adversarial else None
        self.register_buffer("steps", torch.tensor(0))    # counted here, so that a resumed run knows where it is

    def forward(self, x: Tensor, generator: torch.Generator, importance: Tensor | None = None,
                anchor: Tensor | None = None) -> dict[str, Tensor]:
        """The parts of the loss, to be summed, on images x (B, 3, H, W); other arguments as in `judge`.

        anchor: (B, 4, h, w), the scaled latents that those of x should stay near, if there are any.
        """
        mean, logvar = self.autoencoder.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        decoded = self.autoencoder.decode(mean + (0.5 * logvar).exp() * noise.to(mean))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        parts = self.judge(decoded, x, importance) | {"kl": self.weights.kl * kl}
        if anchor is not None:
            parts["anchor"] = self.weights.anchor * (self.autoencoder.config.scale * mean - anchor).square().mean()
        return parts

    def judge(self, decoded: Tensor, x: Tensor, importance: Tensor | None = None) -> dict[str, Tensor]:
        """The parts that compare decoded images with the originals x, both (B, 3, H, W).

        importance: (B, 1, H, W), how much each pixel counts in l1 and l2; by default all alike.
        """
        w, error = self.weights, decoded - x
        importance = torch.ones_like(error) if importance is None else importance.expand_as(error)
        importance = importance / importance.mean()
        parts = {"l1": w.l1 * (importance * error.abs()).mean(), "l2": w.l2 * (importance * error.square()).mean()}
        if w.perceptual:
            parts["perceptual"] = w.perceptual * self.lpips(decoded, x).mean()
        if w.adversarial:
            parts |= self._adversarial(decoded, x, sum(parts.values()))
        self.steps += self.training
        return parts

    def _adversarial(self, decoded: Tensor, x: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        judge = self.discriminator
        parts = {"discriminator": self.weights.discriminator * hinge_loss(judge(x), judge(decoded.detach()))}
        if self.steps >= self.weights.adversarial_start:
            constants = {name: p.detach() for name, p in judge.named_parameters()}
            fooled = adversarial_loss(functional_call(judge, constants, decoded))
            listen = adaptive_weight(reconstruction, fooled, self.autoencoder.decoder.conv_out.weight)
            parts["adversarial"] = self.weights.adversarial * listen * fooled
        else:
            parts["adversarial"] = torch.zeros((), device=x.device)    # every step logs the same columns
        return parts


def pixel_weights(maps: Tensor) -> Tensor:
    """How much each pixel counts: 1, those of things more, up to 25 times. Classes (B, H, W) -> (B, 1, H, W).

    Things are a tenth of all pixels and most of what is said. The fewer pixels a kind of thing has, the more each of
    them counts, together 0.3 pictures: a small cactus before a house is as much to say as the house.
    """
    share = F.one_hot(maps.long(), len(CLASSES)).float().mean((1, 2))                     # (B, classes)
    weight = (0.3 / share).clamp(max=24)
    weight[:, :CLASSES.index("sun or moon") + 1] = 0
    return 1 + weight.gather(1, maps.long().flatten(1)).view_as(maps).unsqueeze(1)


def pick_occluded(crowded: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """`batch` random indices into crowded (N,), bool: half of them any, half of them crowded ones, if there are any."""
    pick = pick_batch(len(crowded), batch, generator)
    where = crowded.nonzero().flatten()
    if len(where):
        pick[:batch // 2] = where[pick_batch(len(where), batch // 2, generator)]
    return pick


def vae(profile: Profile, out: Path, device: torch.device, warm: bool):
    """The autoencoder, with the full loss. What it gets wrong longest are small things before others: half of a batch.

    warm: its latents stay near those that it began with, and the U-Net that draws in them needs little more training.
    """
    images, maps = render("train", profile.scenes)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]
    crowded = torch.tensor([any(thing.front for thing in scene.things) for scene in scenes])
    autoencoder = load_autoencoder(out / "vae") if warm else Autoencoder(TINY)
    anchors = cached_latents(images, autoencoder.eval().to(device), out, device) if warm else None

    def loss_fn(model: FirstStage, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_occluded(crowded, profile.batch, generator)
        return model(to_float(images[pick].to(device)), generator, pixel_weights(maps[pick].to(device)),
                     anchors[pick].to(device) if warm else None)

    def save(model: FirstStage) -> None:
        autoencoder = model.autoencoder
        with torch.no_grad():
            sample = to_float(images[:2048].to(device))
            std = torch.cat([autoencoder.encode(part)[0] for part in sample.split(256)]).std().item()
        autoencoder.config = replace(autoencoder.config, scale=1 / std)  # what the diffusion model sees: unit variance
        save_module(autoencoder, out / "vae", dtype=torch.float16)

    return FirstStage(autoencoder, LPIPS.tiny(), SHIPPED), loss_fn, save


def cached_latents(images: Tensor, encoder: Autoencoder, out: Path, device: torch.device) -> Tensor:
    """Latents of the training scenes, uint8 (N, 3, 64, 64) -> float32 (N, 4, 8, 8), computed once: the U-Net never sees
    a pixel.

    The file's name tells the encoder's weights and the number of scenes, so that a stale one is never used.
    """
    weights = b"".join(p.detach().half().cpu().numpy().tobytes() for p in encoder.encoder.parameters())
    path = out.parent / "training" / f"latents-{hashlib.sha256(weights).hexdigest()[:12]}-{len(images)}.safetensors"
    if not path.exists() and processes()[0] == 0:
        with torch.no_grad():
            parts = [encoder.to_latent(to_float(part.to(device))).cpu()
                     for part in tqdm(images.split(100), desc="latents", unit="x100")]
        write_tensors(path, {"latents": torch.cat(parts)})
    if dist.is_initialized():
        dist.barrier()    # the others wait for the first
    return read_tensors(path)["latents"]


def decoder(profile: Profile, out: Path, device: torch.device, warm: bool):
    """More training for the decoder of `out`/vae alone: the latents, and what has learned to draw in them, stay valid.

    It always starts from that decoder, warm or not.
    Stability AI's sd-vae-ft-mse improved Stable Diffusion v1's decoder in the same way. The latents get a little
    noise, since those that a diffusion model draws are not perfect either.
    """
    autoencoder = load_autoencoder(out / "vae")
    images, maps = render("train", profile.scenes)
    latents = cached_latents(images, autoencoder.eval().to(device), out, device)
    autoencoder.encoder.requires_grad_(False)
    autoencoder.quant_conv.requires_grad_(False)

    def loss_fn(model: FirstStage, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        z = latents[pick] + 0.05 * torch.randn(latents[pick].shape, generator=generator)
        decoded = model.autoencoder.from_latent(z.to(device))
        return model.judge(decoded, to_float(images[pick].to(device)), pixel_weights(maps[pick].to(device)))

    def save(model: FirstStage) -> None:
        save_module(model.autoencoder, out / "vae", dtype=torch.float16)

    return FirstStage(autoencoder, LPIPS.tiny(), SHIPPED), loss_fn, save

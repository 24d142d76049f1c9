"""Train the second stage: one U-Net that predicts the noise in latents, given a text, a picture or a semantic map."""
from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from .. import unet
from ..clip import CLIP, ImageConfig, ImageTransformer
from ..conditioning import MapEncoder, TextEncoder
from ..losses import latent_loss, logit_normal, loss_weights, stratified
from ..pipeline import LatentDiffusion
from ..schedule import scaled_linear_schedule
from ..tiny_worlds.captions import make_caption, vocabulary
from ..tiny_worlds.datasets import render, seeds_of, to_float
from ..tiny_worlds.scenes import Scene, make_scene
from ..tiny_worlds.things import CLASSES
from ..tokenizer import build_tokenizer
from ..weights import load_autoencoder
from .clip_folder import load_clip
from .profile import Profile, Recipe
from .train_autoencoder import cached_latents

CONDITIONS = (*["text"] * 8, "image", "map")    # one of these a step; text most often, it is hardest
TINY_MAP = ImageConfig(image_size=64, patch_size=8, channels=len(CLASSES), dim=128, layers=2, heads=4, mlp_dim=512)


class SecondStage(nn.Module):
    """The U-Net and its three tau, each giving states (B, N, 128).

    All learn together: "jointly optimized", Rombach et al. 2021, section 3.3.
    """

    def __init__(self, clip: CLIP):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=clip.text.config.length)
        self.text = TextEncoder(tokenizer, clip.text)           # starts as CLIP's, which Stable Diffusion freezes
        self.image = clip.image                                 # starts as CLIP's
        self.map = MapEncoder(ImageTransformer(TINY_MAP))       # starts random
        self.unet = unet.UNet(unet.TINY)


def captioned_batch(scenes: list[Scene], three: list[int], batch: int,
                    rng: random.Random) -> tuple[list[int], list[str]]:
    """Draw `batch` indices of scenes, and a caption for each.

    One third uniform, with three captions in ten empty, for guidance. Of the rest two thirds name three things and one
    third two, because those are learned last; "two red mugs" counts double. three: the scenes with three things; if
    there are none, all of the batch is uniform.
    """
    indices, texts = [], []
    while len(indices) < batch:
        uniform = not three or len(indices) < batch // 3
        wanted = 3 if len(indices) % 3 else 2
        i = rng.randrange(len(scenes)) if uniform or wanted == 2 else rng.choice(three)
        caption = make_caption(scenes[i], rng)
        counts = [mention.count for mention in caption.mentions]
        # Chosen by the caption, not by the scene: captions of two things keep their share of scenes with three.
        if not uniform and (sum(counts) != wanted or max(counts) == 1 and rng.random() < 0.5):
            continue
        indices.append(i)
        texts.append("" if uniform and rng.random() < 0.3 else caption.text)
    return indices, texts


def unet_recipe(profile: Profile, out: Path, device: torch.device, warm: bool) -> Recipe:
    """Train the U-Net under three conditions on latents of `out`/vae, starting from the CLIP beside `out`.

    warm: start from the model in `out`, and prefer the t that decide what a picture shows (0.55 T) and where (0.93 T).
    """
    schedule = scaled_linear_schedule()
    images, maps = render("train", profile.scenes)
    latents = cached_latents(images, load_autoencoder(out / "vae").eval().to(device), out, device)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]
    three = [i for i, scene in enumerate(scenes) if len(scene.things) == 3]
    weight = loss_weights(schedule, most=6.0 if warm else 30.0).to(device)

    def loss_fn(model: SecondStage, generator: Generator) -> dict[str, Tensor]:
        rng = random.Random(generator.initial_seed())
        condition = rng.choice(CONDITIONS)
        indices, texts = captioned_batch(scenes, three, profile.batch, rng)
        pick = torch.tensor(indices)
        if condition == "text":
            context = model.text(texts)
        elif condition == "image":
            context = model.image(to_float(images[pick].to(device)))
        else:
            context = model.map(maps[pick].to(device))
        t = stratified(len(pick), schedule.T, generator)
        if warm:
            t[::2] = logit_normal(t[::2], schedule.T, middle=0.55)
            t[1::8] = logit_normal(t[1::8], schedule.T, middle=0.93)
        z_0, t = latents[pick].to(device), t.to(device)
        eps = torch.randn(z_0.shape, generator=generator).to(device)
        return {"loss": (weight[t] * latent_loss(model.unet, z_0, context, t, eps, schedule)).mean()}

    def save(model: SecondStage) -> None:
        newest = load_autoencoder(out / "vae")    # its decoder may have been trained further meanwhile
        LatentDiffusion(model.unet, newest, model.text, schedule, model.image, model.map).save_pretrained(out)

    model = SecondStage(load_clip(out.parent / "clip"))
    model.unet.to(memory_format=torch.channels_last)    # a quarter faster on a CPU
    if warm:
        saved = LatentDiffusion.from_pretrained(out)
        for part, trained in zip((model.unet, model.text, model.image, model.map),
                                 (saved.unet, saved.text, saved.image_encoder, saved.map_encoder)):
            part.load_state_dict(trained.state_dict())
    return model, loss_fn, save

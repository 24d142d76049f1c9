"""Training the second stage: one U-Net that predicts the noise in latents, told a text, a picture or a semantic map."""
from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor, nn

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
from .profile import Profile
from .train_autoencoder import cached_latents

CONDITIONS = (*["text"] * 8, "image", "map")    # one of these a step; text most often, it is hardest
TINY_MAP = ImageConfig(image_size=64, patch_size=8, channels=len(CLASSES), dim=128, layers=2, heads=4, mlp_dim=512)


class SecondStage(nn.Module):
    """The U-Net and its three tau, each giving states (B, N, 128).

    Those of texts and images begin as CLIP's, that of maps at random, and all learn with the U-Net: "jointly
    optimized", Rombach et al. 2021, section 3.3. (Stable Diffusion leaves CLIP's text transformer as it is. Trials of
    that here, with a CLIP that knows places well and kinds of things poorly, are in the model card.)
    """

    def __init__(self, clip: CLIP):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=clip.text.config.length)
        self.text = TextEncoder(tokenizer, clip.text)
        self.image = clip.image
        self.map = MapEncoder(ImageTransformer(TINY_MAP))
        self.unet = unet.UNet(unet.TINY)


def captioned_batch(scenes: list[Scene], three: list[int], batch: int,
                    rng: random.Random) -> tuple[list[int], list[str]]:
    """`batch` indices into scenes, and a caption of each: a third of them any, of the rest two in three naming three
    things, the others two, and those with a number ("two red mugs") twice as often as they come.

    Several things at once are learned last, and few scenes have them. They are chosen by the caption, not by the scene,
    so that the scenes of a caption remain what they are in the data. (Chosen by the scene, captions of two things come
    with a third far too often, and the model draws it.) One caption in ten is empty, all of them in the first third:
    what guidance leads away from (Ho & Salimans 2022, arXiv:2207.12598) is the data as it is.

    three: which of the scenes have three things; if none have, all are any.
    """
    indices, texts = [], []
    while len(indices) < batch:
        any_caption = not three or len(indices) < batch // 3
        wanted = 3 if len(indices) % 3 else 2
        i = rng.randrange(len(scenes)) if any_caption or wanted == 2 else rng.choice(three)
        caption = make_caption(scenes[i], rng)
        counts = [mention.count for mention in caption.mentions]
        if not any_caption and (sum(counts) != wanted or max(counts) == 1 and rng.random() < 0.5):
            continue
        indices.append(i)
        texts.append("" if any_caption and rng.random() < 0.3 else caption.text)
    return indices, texts


def unet_recipe(profile: Profile, out: Path, device: torch.device, warm: bool):
    """The U-Net under three conditions, on the latents of the autoencoder in `out`/vae, with the CLIP beside `out`.

    warm: no t counts as much more than others as at first; half of all t are about 0.55 T, where it is decided how many
    things there are and what they are, and an eighth about 0.93 T, where most of where they stand is (`logit_normal`).
    """
    schedule = scaled_linear_schedule()
    images, maps = render("train", profile.scenes)
    latents = cached_latents(images, load_autoencoder(out / "vae").eval().to(device), out, device)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]
    three = [i for i, scene in enumerate(scenes) if len(scene.things) == 3]
    weight = loss_weights(schedule, most=6.0 if warm else 30.0).to(device)

    def loss_fn(model: SecondStage, generator: torch.Generator) -> dict[str, Tensor]:
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
        t = t.to(device)
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        error = latent_loss(model.unet, latents[pick].to(device), context, t, eps, schedule)
        return {"loss": (weight[t] * error).mean()}

    def save(model: SecondStage) -> None:
        newest = load_autoencoder(out / "vae")    # its decoder may have been trained further meanwhile
        LatentDiffusion(model.unet, newest, model.text, schedule, model.image, model.map).save_pretrained(out)

    model = SecondStage(load_clip(out.parent / "clip"))
    model.unet.to(memory_format=torch.channels_last)    # a quarter faster on a CPU
    if warm:
        shipped = LatentDiffusion.from_pretrained(out)
        model.unet.load_state_dict(shipped.unet.state_dict())
        model.text.load_state_dict(shipped.text.state_dict())
        if shipped.map_encoder is not None:
            model.map.load_state_dict(shipped.map_encoder.state_dict())
        if shipped.image_encoder is not None:
            model.image.load_state_dict(shipped.image_encoder.state_dict())
    return model, loss_fn, save

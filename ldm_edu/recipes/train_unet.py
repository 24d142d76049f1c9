"""Train the second stage: one U-Net that predicts the noise in latents, given a text, a picture or a semantic map."""
from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Generator, Tensor, nn

from .. import unet
from ..autoencoder import Autoencoder
from ..clip import CLIP, ImageConfig, ImageTransformer
from ..conditioning import MapEncoder, TextEncoder
from ..losses import loss_weights, noise_loss
from ..pipeline import LatentDiffusion
from ..schedule import Schedule, scaled_linear_schedule
from ..support.parallel import in_parallel
from ..tiny_worlds.captions import make_caption
from ..tiny_worlds.datasets import seeds_of, to_float
from ..tiny_worlds.scenes import make_scene
from ..tiny_worlds.things import CLASSES
from ..tokenizer import load_tokenizer, tokenize
from ..training import pick_batch
from ..weights import load_autoencoder
from .clip_folder import load_clip
from .profiles import Profile, Recipe, step_of, training_scenes
from .train_autoencoder import encode_all

CONDITIONS = (*["text"] * 8, "image", "map")    # one of these a step; text most often, it is hardest
TINY_MAP = ImageConfig(image_size=64, patch_size=8, channels=len(CLASSES), dim=128, layers=2, heads=4, mlp_dim=512)
CAPTIONS = 8      # of each scene, written before training
DROPPED = 0.1     # share of the captions that are left out, for guidance


class SecondStage(nn.Module):
    """The U-Net and its three tau, each giving states (B, N, 128).

    All learn together: "jointly optimized", Rombach et al. 2021, section 3.3.
    """

    def __init__(self, clip: CLIP, text: TextEncoder):
        super().__init__()
        self.text = text                                        # starts as CLIP's, which Stable Diffusion freezes
        self.image = clip.image                                 # starts as CLIP's
        self.map = MapEncoder(ImageTransformer(TINY_MAP))       # starts random
        self.unet = unet.UNet(unet.TINY).to(memory_format=torch.channels_last)    # a quarter faster on a CPU


def write_captions(seed: int, tokenizer: Tokenizer) -> np.ndarray:
    """Write CAPTIONS captions of the scene of a seed, as tokens (CAPTIONS, N)."""
    scene, rng = make_scene(seed), random.Random(f"captions {seed}")
    return tokenize(tokenizer, [make_caption(scene, rng).text for _ in range(CAPTIONS)]).numpy()


def encode_and_caption(images: Tensor, autoencoder: Autoencoder, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Encode the first N training scenes (N, 3, H, W), uint8; write their captions, tokens (1 + N CAPTIONS, 32)."""
    latents = encode_all(images, autoencoder.to(images.device))
    written = in_parallel(partial(write_captions, tokenizer=tokenizer), seeds_of("train", len(images)))
    ids = np.concatenate([tokenize(tokenizer, [""]).numpy(), *written])    # the empty prompt first
    return latents, torch.from_numpy(ids).to(images.device)


def drop_some(ids: Tensor, pick: Tensor, generator: Generator, share: float = DROPPED) -> Tensor:
    """Look up rows of ids, tokens (M, N), some of them replaced by row 0, the empty prompt, for guidance."""
    dropped = torch.rand(len(pick), generator=generator, device=pick.device) < share
    return ids[pick.masked_fill(dropped, 0)]


def unet_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train the U-Net under three conditions on the latents of `root`'s autoencoder, starting from `root`'s CLIP."""
    schedule, clip = Schedule(scaled_linear_schedule().betas.to(device)), load_clip(root / "clip")
    model = SecondStage(clip, TextEncoder(load_tokenizer(root / "clip"), clip.text))
    first = load_autoencoder(root / "tiny-worlds/vae").eval()
    images, maps = (part.to(device) for part in training_scenes(profile.scenes))
    latents, ids = encode_and_caption(images, first, model.text.tokenizer)
    weight = loss_weights(schedule).to(device)

    def loss_fn(model: SecondStage, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        condition = loss_fn.branch(generator)
        if condition == "text":
            which = 1 + CAPTIONS * pick + pick_batch(CAPTIONS, len(pick), generator)
            context = model.text.transformer(drop_some(ids, which, generator))
        elif condition == "image":
            context = model.image(to_float(images[pick]))
        else:
            context = model.map(maps[pick])
        return {"loss": noise_loss(model.unet, latents[pick], context, schedule, weight, generator)}

    loss_fn.branch = lambda generator: CONDITIONS[step_of(generator) % len(CONDITIONS)]

    def save(model: SecondStage) -> Path:
        ldm = LatentDiffusion(model.unet, first, model.text, scaled_linear_schedule(), model.image,
                              model.map)
        ldm.save_pretrained(folder := root / "tiny-worlds")
        return folder

    return model, loss_fn, save

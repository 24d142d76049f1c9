"""Train CLIP on Tiny Worlds: on plain pairs, and on scenes that are hard to tell apart."""
from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from .. import DATA, clip
from ..clip import CLIP, ImageConfig, TextConfig
from ..losses import contrastive_loss
from ..metrics.caption_accuracy import facts
from ..tiny_worlds.captions import make_caption, vocabulary
from ..tiny_worlds.datasets import TinyWorlds, render, seeds_of, to_float
from ..tiny_worlds.landscapes import paint
from ..tiny_worlds.scenes import CHANGES, Scene, make_scene, sibling
from ..tokenizer import build_tokenizer, save_tokenizer, tokenize
from ..training import Progress, TrainConfig, pick_batch, train
from .clip_folder import load_clip, save_clip
from .profile import Profile, Recipe

FOLDER = DATA / "clip"
SMALL = (replace(clip.TINY, dim=64, layers=2, mlp_dim=256), replace(clip.TINY_IMAGE, dim=64, layers=2, mlp_dim=256), 64)
PLAIN, BATCH = TrainConfig(600, lr=3e-3, warmup=20, ema=0.98), 64


class ClipLearner(nn.Module):
    """CLIP and the tokenizer it is trained with."""

    def __init__(self, text: TextConfig = clip.TINY, image: ImageConfig = clip.TINY_IMAGE, width: int = 128):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=text.length)
        size = tokenizer.get_vocab_size()
        config = replace(text, vocab_size=size, end_id=size - 1)
        self.clip = CLIP(clip.TextTransformer(config), clip.ImageTransformer(image), width)
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path = FOLDER) -> ClipLearner:
        """Load the trained one, of the default sizes. Raises as `load_clip` does."""
        learner = cls()
        learner.clip.load_state_dict(load_clip(folder).state_dict())
        return learner.eval()

    def forward(self, images: Tensor, captions: list[str]) -> Tensor:
        """Compute the loss on images (B, 3, 64, 64) in [-1, 1] and their captions: ()."""
        ids = tokenize(self.tokenizer, captions)
        return contrastive_loss(self.clip.embed_images(images), self.clip.embed_texts(ids.to(images.device)),
                                self.clip.logit_scale)


def distinguishing_caption(scene: Scene, other: Scene, rng: random.Random, tries: int = 4) -> str:
    """Caption `scene` with what is false of `other`, if one of `tries` captions is; otherwise return the last."""
    for _ in range(tries):
        caption = make_caption(scene, rng)
        if not all(found for _, found in facts(caption, other)):
            break
    return caption.text


def clip_recipe(profile: Profile, out: Path, device: torch.device, warm: bool) -> Recipe:
    """Train CLIP on scenes and their siblings, each half of every batch.

    A sibling differs from its scene in one attribute: a hard negative (Yuksekgonul et al. 2022, arXiv:2210.01936).
    """
    pairs = []
    for i, seed in enumerate(seeds_of("train", profile.scenes)):
        changes = ("places",) if i % 2 else CHANGES    # where things stand is the hardest to learn
        pairs.append((scene := make_scene(seed), sibling(scene, random.Random(f"sibling {seed}"), changes)))
    easy = torch.tensor([i for i, (scene, _) in enumerate(pairs) if i % 2 and len(scene.things) == 1] or [0])
    images = torch.from_numpy(np.stack([[paint(scene)[0] for scene in pair] for pair in pairs]))
    images = images.permute(0, 1, 4, 2, 3).contiguous()                                   # (N, 2, 3, 64, 64) uint8

    def loss_fn(model: ClipLearner, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(pairs), profile.batch // 2, generator)
        pick[::4] = easy[pick[::4] % len(easy)]    # a quarter: one thing, and only that has moved
        rng = random.Random(generator.initial_seed())
        captions = [distinguishing_caption(a, b, rng) for i in pick.tolist() for a, b in (pairs[i], pairs[i][::-1])]
        return {"contrastive": model(to_float(images[pick].flatten(0, 1).to(device)), captions)}

    def save(learner: ClipLearner) -> None:
        save_clip(learner.clip, out, torch.float16)
        save_tokenizer(learner.tokenizer, out)

    return ClipLearner.load(out) if warm else ClipLearner(), loss_fn, save


def pairs_of(split: str, count: int) -> tuple[Tensor, list[str]]:
    """Render images, uint8 (count, 3, 64, 64), with one caption each."""
    world = TinyWorlds(split, count)
    return render(split, count)[0], [world.caption(i).text for i in range(count)]


def train_on_pairs(learner: ClipLearner, images: Tensor, captions: list[str],
                   config: TrainConfig = PLAIN) -> Iterator[Progress]:
    """Train on random batches of uint8 images (N, 3, H, W) and their captions, as CLIP was; yield like `train`."""
    def loss_fn(model: ClipLearner, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), BATCH, generator)
        return {"contrastive": model(to_float(images[pick]), [captions[i] for i in pick.tolist()])}

    return train(learner, loss_fn, config)

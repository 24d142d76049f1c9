"""Train CLIP on scenes that are hard to tell apart."""
from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Generator, Tensor, nn

from .. import DATA, clip
from ..clip import CLIP, ImageConfig, TextConfig
from ..losses import contrastive_loss
from ..metrics.caption_accuracy import facts
from ..support.parallel import in_parallel
from ..tiny_worlds.captions import make_caption, vocabulary
from ..tiny_worlds.datasets import seeds_of, to_float
from ..tiny_worlds.landscapes import paint
from ..tiny_worlds.scenes import Scene, make_scene, sibling
from ..tokenizer import build_tokenizer, save_tokenizer, tokenize
from ..training import pick_batch
from .clip_folder import load_clip, save_clip
from .profiles import Profile, Recipe, training_scenes

FOLDER = DATA / "clip"
CAPTIONS = 4    # of each scene, written before training


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

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Compute the loss on images (B, 3, 64, 64) in [-1, 1] and the tokens of their captions (B, N): ()."""
        embedded = self.clip.embed_images(images), self.clip.embed_texts(ids)
        with torch.autocast(images.device.type, enabled=False):    # bfloat16 would round logits of 100 by a quarter
            return contrastive_loss(*(each.float() for each in embedded), self.clip.logit_scale)


def distinguishing_caption(scene: Scene, other: Scene, rng: random.Random, tries: int = 4) -> str:
    """Caption `scene` with what is false of `other`, if one of `tries` captions is; otherwise return the last."""
    for _ in range(tries):
        caption = make_caption(scene, rng)
        if not all(found for _, found in facts(caption, other)):
            break
    return caption.text


def scene_and_sibling(seed: int) -> tuple[list[Scene], list[str]]:
    """Make a scene and one that differs from it in one attribute, and CAPTIONS of each that tell them apart."""
    rng = random.Random(f"sibling {seed}")
    pair = [scene := make_scene(seed), sibling(scene, rng)]
    return pair, [distinguishing_caption(a, b, rng) for a, b in (pair, pair[::-1]) for _ in range(CAPTIONS)]


def sibling_and_captions(seed: int, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Paint the sibling of a scene, uint8 (H, W, 3), and write the captions of both as tokens (2 CAPTIONS, N)."""
    (_, other), texts = scene_and_sibling(seed)
    return paint(other)[0], tokenize(tokenizer, texts).numpy()


def clip_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train CLIP on scenes and their siblings, each half of every batch.

    A sibling is a hard negative (Yuksekgonul et al. 2022, arXiv:2210.01936).
    """
    learner = ClipLearner()
    describe, count = partial(sibling_and_captions, tokenizer=learner.tokenizer), profile.scenes
    siblings, ids = zip(*in_parallel(describe, seeds_of("train", count)))
    pairs = training_scenes(count)[0], torch.from_numpy(np.stack(siblings)).movedim(-1, 1)
    images = torch.stack(pairs, 1).flatten(0, 1).to(device)                               # (2N, 3, 64, 64)
    ids = torch.from_numpy(np.concatenate(ids)).to(device)                                # (2N CAPTIONS, 32)

    def loss_fn(learner: ClipLearner, generator: Generator) -> dict[str, Tensor]:
        first = 2 * pick_batch(count, profile.batch // 2, generator)
        pick = torch.stack([first, first + 1], 1).flatten()                               # a scene, its sibling, ...
        which = CAPTIONS * pick + pick_batch(CAPTIONS, len(pick), generator)
        return {"contrastive": learner(to_float(images[pick]), ids[which])}

    def save(learner: ClipLearner) -> Path:
        save_clip(learner.clip, folder := root / "clip", torch.float16)
        save_tokenizer(learner.tokenizer, folder)
        return folder

    return learner, loss_fn, save

"""Train everything on your own captioned pictures: autoencoder, text transformer and U-Net."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from .. import DATA, autoencoder, clip, unet
from ..clip import TextTransformer
from ..conditioning import TextEncoder
from ..losses import loss_weights, noise_loss
from ..perceptual import LPIPS
from ..pipeline import LatentDiffusion
from ..schedule import scaled_linear_schedule
from ..support.checks import expect
from ..support.files import locked
from ..tiny_worlds.datasets import Example, read_pictures, to_float
from ..tokenizer import build_tokenizer, tokenize
from ..training import TrainConfig, pick_batch
from ..weights import load_autoencoder, load_unet
from .runner import fit, same_run
from .train_autoencoder import SHIPPED, FirstStage, encode_all, set_scale
from .train_unet import drop_some


def text_encoder_for(texts: list[str]) -> TextEncoder:
    """Make an untrained text encoder with one token for each word of `texts` and room for the longest of them."""
    words = {word for text in texts for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]", text.lower())}
    tokenizer = build_tokenizer(words, length=16)
    longest = max(len(found.ids) for found in tokenizer.encode_batch(texts))
    expect(longest <= 77, "text", f"a caption of {longest} tokens", "at most 77, start and end included")
    tokenizer = build_tokenizer(words, length=(length := -(-longest // 8) * 8))
    size = tokenizer.get_vocab_size()
    return TextEncoder(tokenizer, TextTransformer(replace(clip.TINY, vocab_size=size, end_id=size - 1, length=length)))


def train_own(dataset: Sequence[Example], out: Path, size: int = 64, steps: int = 4000, first_steps: int = 1000,
              batch: int = 16, resume: bool = False, cold: bool = False,
              device: str | torch.device = "cpu") -> tuple[LatentDiffusion, list[Example]]:
    """Train a model of a data set and save it to the folder `out`; return it and its first pictures, for the doctor.

    size: pixels a side, a multiple of 8. steps, first_steps: of U-Net and autoencoder, which start from the shipped
    weights or, if `cold`, from random ones. Raises ValueError for the size, for a resumed run with other pictures,
    captions or settings than it began with, and as `read_pictures`, before training.
    """
    expect(size >= 16 and size % 8 == 0, "size", size, "a multiple of 8 from 16 on")
    images, texts = read_pictures(dataset)
    folder = out / "training"
    with locked(folder):
        same_run(folder, resume, {
            "size": size, "batch": batch, "steps": steps, "first_steps": first_steps, "cold": cold,
            "captions": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            "pictures": hashlib.sha256(images.numpy().tobytes()).hexdigest()})
        torch.manual_seed(0)
        text, images, schedule = text_encoder_for(texts), images.to(device), scaled_linear_schedule()
        first = autoencoder.Autoencoder(autoencoder.TINY) if cold else load_autoencoder(DATA / "tiny-worlds/vae")
        net = unet.UNet(replace(unet.TINY, sample_size=size // 8))
        if not cold:
            net.load_state_dict(load_unet(DATA / "tiny-worlds/unet").state_dict())

        def first_loss(stage: FirstStage, generator: Generator) -> dict[str, Tensor]:
            return stage(to_float(images[pick_batch(len(images), batch, generator)]), generator)

        plan = TrainConfig(first_steps, lr=5e-4, save_every=100)
        stage = FirstStage(first, LPIPS.tiny(), SHIPPED).to(device)
        first = fit(stage, first_loss, plan, folder / "autoencoder").autoencoder
        set_scale(first, images)

        learner = nn.ModuleDict({"unet": net, "text": text}).to(device)
        ids = tokenize(text.tokenizer, ["", *texts]).to(device)
        latents, weight = encode_all(images, first), loss_weights(schedule).to(device)

        def loss_fn(learner: nn.ModuleDict, generator: Generator) -> dict[str, Tensor]:
            pick = pick_batch(len(latents), batch, generator)
            context = learner.text.transformer(drop_some(ids, 1 + pick, generator))
            return {"loss": noise_loss(learner.unet, latents[pick], context, schedule, weight, generator)}

        learner = fit(learner, loss_fn, replace(plan, steps=steps, lr=8e-4), folder / "unet")
        ldm = LatentDiffusion(learner.unet, first, learner.text, schedule)
        ldm.save_pretrained(out)
    return ldm, [Example(to_float(image.cpu()), caption, None) for image, caption in zip(images[:64], texts)]

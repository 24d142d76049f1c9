"""Train everything on your own captioned pictures: autoencoder, text transformer and U-Net."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from .. import DATA, autoencoder, clip, unet
from ..clip import TextTransformer
from ..conditioning import TextEncoder
from ..losses import latent_loss, loss_weights, stratified
from ..perceptual import LPIPS
from ..pipeline import LatentDiffusion
from ..schedule import scaled_linear_schedule
from ..support.checks import expect
from ..support.files import locked
from ..tiny_worlds.datasets import CaptionedImages, Example, read_folder, to_float
from ..tokenizer import build_tokenizer
from ..training import TrainConfig, pick_batch
from ..weights import load_autoencoder, load_unet
from .runner import fit, same_run
from .train_autoencoder import SHIPPED, FirstStage, encode_all, set_scale

FEWEST = 8    # pictures


def open_pictures(folder: Path, size: int, name: str | None = None) -> CaptionedImages:
    """Open a captioned folder or, downloaded to it, the torchvision data set `name`, its classes as captions."""
    if name is None:
        return CaptionedImages(read_folder(folder), (size, size))
    from torchvision import datasets
    kind, wanted = getattr(datasets, name, None), "a set that downloads itself, such as CIFAR10"
    expect(isinstance(kind, type) and "download" in signature(kind).parameters, "--torchvision", name,
           f"{wanted}; a folder with a folder for each class needs no option")
    source = kind(folder, download=True)
    expect(hasattr(source, "classes"), "--torchvision", f"{name}, whose classes have no names", wanted)
    return CaptionedImages(source, (size, size), names=source.classes)


def read_pictures(dataset: Sequence[Example]) -> tuple[Tensor, list[str]]:
    """Read all pictures, uint8 (N, 3, H, W), and captions. ValueError names the files that cannot be read."""
    images, texts, wrong = [], [], []
    for index in range(len(dataset)):
        try:
            image, text, _ = dataset[index]
        except (OSError, ValueError) as error:
            wrong.append(str(error))
        else:
            images.append((image * 127.5 + 127.5).round().byte())
            texts.append(text)
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(dataset)} pictures cannot be read: {'; '.join(wrong[:8])}")
    expect(len(images) >= FEWEST and len(set(texts)) > 1, "pictures",
           f"{len(images)} with {len(set(texts))} different captions", f"at least {FEWEST} with 2")
    return torch.stack(images), texts


def text_encoder_for(texts: list[str]) -> TextEncoder:
    """Make an untrained text encoder with one token for each word of `texts` and room for the longest of them."""
    words = {word for text in texts for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]", text.lower())}
    tokenizer = build_tokenizer(words, length=16)
    longest = max(len(found.ids) for found in tokenizer.encode_batch(texts))
    expect(longest <= 77, "text", f"a caption of {longest} tokens", "at most 77, start and end included")
    tokenizer = build_tokenizer(words, length=(length := -(-longest // 8) * 8))
    size = tokenizer.get_vocab_size()
    return TextEncoder(tokenizer, TextTransformer(replace(clip.TINY, vocab_size=size, end_id=size - 1, length=length)))


def train_autoencoder(images: Tensor, model: nn.Module, config: TrainConfig, batch: int, folder: Path, resume: bool,
                      device: torch.device) -> nn.Module:
    """Train an autoencoder on uint8 pictures (N, 3, H, W) with the loss of the shipped one, and set its scale."""
    def loss_fn(stage: FirstStage, generator: Generator) -> dict[str, Tensor]:
        return stage(to_float(images[pick_batch(len(images), batch, generator)].to(device)), generator)

    stage = FirstStage(model, LPIPS.tiny(), SHIPPED).to(device)
    model = fit(stage, loss_fn, config, folder / "autoencoder", resume).autoencoder
    set_scale(model, images, device)
    return model


def train_unet(images: Tensor, texts: list[str], first: nn.Module, learner: nn.ModuleDict, config: TrainConfig,
               batch: int, folder: Path, resume: bool, device: torch.device) -> LatentDiffusion:
    """Train a U-Net and its text encoder on the latents of an autoencoder, with one caption in ten empty."""
    schedule, latents = scaled_linear_schedule(), encode_all(images, first, device).to(device)
    weight = loss_weights(schedule).to(device)

    def loss_fn(learner: nn.ModuleDict, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), batch, generator)
        kept = torch.rand(batch, generator=generator) > 0.1
        context = learner.text([texts[i] if keep else "" for i, keep in zip(pick.tolist(), kept.tolist())])
        t = stratified(batch, schedule.T, generator).to(device)
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        return {"loss": (weight[t] * latent_loss(learner.unet, latents[pick], context, t, eps, schedule)).mean()}

    learner = fit(learner.to(device), loss_fn, config, folder / "unet", resume)
    return LatentDiffusion(learner.unet, first, learner.text, schedule)


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
            "size": size, "batch": batch, "cold": cold,
            "captions": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            "pictures": hashlib.sha256(images.numpy().tobytes()).hexdigest()})
        torch.manual_seed(0)
        text, device = text_encoder_for(texts), torch.device(device)
        first = autoencoder.Autoencoder(autoencoder.TINY) if cold else load_autoencoder(DATA / "tiny-worlds/vae")
        net = unet.UNet(replace(unet.TINY, sample_size=size // 8))
        if not cold:
            net.load_state_dict(load_unet(DATA / "tiny-worlds/unet").state_dict())
        plan = TrainConfig(first_steps, lr=5e-4, save_every=100)
        first = train_autoencoder(images, first, plan, batch, folder, resume, device)
        learner, plan = nn.ModuleDict({"unet": net, "text": text}), replace(plan, steps=steps, lr=8e-4)
        ldm = train_unet(images, texts, first, learner, plan, batch, folder, resume, device)
        ldm.save_pretrained(out)
    return ldm, [Example(to_float(image), caption, None) for image, caption in zip(images[:64], texts)]

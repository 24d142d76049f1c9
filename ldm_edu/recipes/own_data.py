"""Train everything on your own captioned pictures: autoencoder, text transformer and U-Net."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill

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
from ..support.files import locked, replacing
from ..tiny_worlds.datasets import Example, read_pictures, to_float
from ..tokenizer import build_tokenizer, tokenize
from ..training import Progress, TrainConfig, pick_batch
from ..weights import load_autoencoder, load_unet
from .runner import fit, same_run
from .train_autoencoder import FirstStage, encode_all, set_scale
from .train_unet import drop_some

# The defaults are enough for a thousand drawings, as notebooks/your_own_pictures.md shows, in minutes on two CPU cores.
# - Muon at the learning rates of profiles.py, loss weights over t and averaged weights: the best in our other recipes.
# - No discriminator: a step would take 1.4 times as long, and so short a run would hardly hear of it.
# - No flips: captions may speak of left and right, and pictures may hold letters.
UNET_PACE = 1.1    # how long a step of the U-Net takes, in steps of the autoencoder, with half as many pictures
SHOWN = 8          # pictures, drawn every few minutes


def text_encoder_for(texts: list[str]) -> TextEncoder:
    """Make an untrained text encoder with one token for each word of `texts` and room for the longest of them."""
    words = {word for text in texts for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]", text.lower())}
    tokenizer = build_tokenizer(words, length=16)
    longest = max(len(found.ids) for found in tokenizer.encode_batch(texts))
    expect(longest <= 77, "text", f"a caption of {longest} tokens", "at most 77, start and end included")
    tokenizer = build_tokenizer(words, length=(length := -(-longest // 8) * 8))
    size = tokenizer.get_vocab_size()
    return TextEncoder(tokenizer, TextTransformer(replace(clip.TINY, vocab_size=size, end_id=size - 1, length=length)))


def train_own(dataset: Sequence[Example], out: Path, size: int = 64, steps: int = 800, first_steps: int = 500,
              batch: int = 16, resume: bool = False, cold: bool = False,
              device: str | torch.device = "cpu") -> tuple[LatentDiffusion, list[Example]]:
    """Train a model of a data set and save it to the folder `out`; return it and some pictures, for the doctor.

    size: pixels a side, a multiple of 8. steps, first_steps: of U-Net and autoencoder, which start from the shipped
    weights or, if `cold`, from random ones. Pictures in `out`/training show every few minutes how far they are. Raises
    ValueError for the size, for a resumed run with other pictures, captions or settings than it began with, and as
    `read_pictures`, before training.
    """
    expect(size >= 16 and size % 8 == 0, "size", size, "a multiple of 8 from 16 on")
    expect(batch >= 2, "batch", batch, "at least 2: the autoencoder takes half of it")
    images, texts = read_pictures(dataset)
    folder = out / "training"
    with locked(folder):
        same_run(folder, resume, {
            "size": size, "batch": batch, "steps": steps, "first_steps": first_steps, "cold": cold,
            "captions": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            "pictures": hashlib.sha256(images.numpy().tobytes()).hexdigest()})
        torch.manual_seed(0)
        text, net = text_encoder_for(texts), unet.UNet(replace(unet.TINY, sample_size=size // 8))
        first = autoencoder.Autoencoder(autoencoder.TINY) if cold else load_autoencoder(DATA / "tiny-worlds/vae")
        if not cold:
            net.load_state_dict(load_unet(DATA / "tiny-worlds/unet").state_dict())
        some = torch.linspace(0, len(texts) - 1, min(64, len(texts))).long()    # of all classes, should they be sorted
        examples = [Example(to_float(images[i]), texts[i], None) for i in some]
        shown, images = examples[::-(-len(examples) // SHOWN)], images.to(device)
        first = train_first_stage(first.to(device), images, shown, first_steps, batch // 2, folder,
                                  lambda left, pace: f"all: {(left + UNET_PACE * pace * steps) / 60:.0f} min left; ")
        ldm = LatentDiffusion(net.to(device), first, text.to(device), scaled_linear_schedule())
        train_second_stage(ldm, images, texts, shown, steps, batch, folder)
        ldm.save_pretrained(out)
    return ldm, examples


def train_first_stage(first: autoencoder.Autoencoder, images: Tensor, shown: list[Example], steps: int, batch: int,
                      folder: Path, left_after: Callable[[float, float], str]) -> autoencoder.Autoencoder:
    """Train an autoencoder on uint8 images (N, 3, H, W), drawing reconstructions of `shown`; return the average."""
    originals = torch.stack([example.image for example in shown]).to(images.device)

    def loss_fn(stage: FirstStage, generator: Generator) -> dict[str, Tensor]:
        return stage(to_float(images[pick_batch(len(images), batch, generator)]), generator)

    def look(progress: Progress) -> None:
        first = progress.ema.autoencoder
        draw_pairs(folder / "reconstructions.png", f"the autoencoder after {progress.step:,} of {steps:,} steps: "
                   "pictures, and what it makes of them", shown, first.from_latent(first.to_latent(originals)))

    stage = FirstStage(first.to(memory_format=torch.channels_last), LPIPS.tiny()).to(images.device)
    plan = TrainConfig(steps, lr=1.5e-3, muon=True, save_every=100)
    first = fit(stage, loss_fn, plan, folder / "autoencoder", left_after, look).autoencoder
    set_scale(first, images)
    return first


def train_second_stage(ldm: LatentDiffusion, images: Tensor, texts: list[str], shown: list[Example], steps: int,
                       batch: int, folder: Path) -> None:
    """Train U-Net and text transformer on uint8 images (N, 3, H, W) and their texts, drawing samples beside `shown`."""
    learner = nn.ModuleDict({"unet": ldm.unet.to(memory_format=torch.channels_last), "text": ldm.text})
    ids = tokenize(ldm.text.tokenizer, ["", *texts]).to(images.device)
    latents, weight = encode_all(images, ldm.autoencoder), loss_weights(ldm.schedule).to(images.device)

    def loss_fn(learner: nn.ModuleDict, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), batch, generator)
        context = learner.text.transformer(drop_some(ids, 1 + pick, generator))
        return {"loss": noise_loss(learner.unet, latents[pick], context, ldm.schedule, weight, generator)}

    def look(progress: Progress) -> None:
        model = LatentDiffusion(progress.ema.unet, ldm.autoencoder, progress.ema.text, ldm.schedule)
        draw_pairs(folder / "samples.png", f"the model after {progress.step:,} of {steps:,} steps: pictures, and what "
                   "it draws from their captions", shown, model.text_to_image([example.text for example in shown]))

    plan = TrainConfig(steps, lr=2e-3, muon=True, save_every=100)
    fit(learner, loss_fn, plan, folder / "unet", lambda left, pace: f"all: {left / 60:.0f} min left; ", look)


def draw_pairs(path: Path, title: str, examples: list[Example], below: Tensor) -> None:
    """Draw examples, their captions above them and images (B, 3, H, W) below them, to a PNG file."""
    from matplotlib.figure import Figure  # half a second that --help need not wait for

    figure = Figure(figsize=(1.3 * len(examples), 3.3))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.79, 0.05, 0.05)
    figure.suptitle(title, fontsize=9)
    for column, example, image in zip(figure.subplots(2, len(examples), squeeze=False).T, examples, below.cpu()):
        column[0].set_title(fill(example.text, 17), fontsize=8)
        for axis, picture in zip(column, (example.image, image)):
            axis.imshow((picture / 2 + 0.5).clamp(0, 1).movedim(0, -1).numpy())
            axis.axis("off")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=100)

"""Your own captioned pictures through all of it: autoencoder, text transformer, U-Net, and what the doctor says.

`python -m ldm_edu.own_data FOLDER --out MODEL [--size 64] [--steps 4000]`

FOLDER holds pictures and metadata.csv or metadata.jsonl with the fields file_name and text (the imagefolder convention
of Hugging Face `datasets`). With --torchvision NAME it is where that data set lies or is downloaded to, and the names
of its classes are the captions. A run that was killed goes on with --resume. MODEL is a folder as data/tiny-worlds is.
"""
from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from .. import DATA, autoencoder, clip, unet
from ..clip import TextTransformer
from ..conditioning import TextEncoder
from ..doctor.examine import examine
from ..losses import latent_loss, loss_weights, stratified
from ..perceptual import LPIPS
from ..pipeline import LatentDiffusion
from ..schedule import scaled_linear_schedule
from ..support.logs import logged
from ..tiny_worlds.datasets import CaptionedImages, Example, read_folder, to_float
from ..tokenizer import build_tokenizer
from ..training import TrainConfig, load_ema, pick_batch, train
from ..weights import load_autoencoder, load_unet
from .train_autoencoder import SHIPPED, FirstStage

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see README: beside other programs, spinning threads starve torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")
FEWEST = 8    # pictures; a model of fewer is a model of these


def read_pictures(dataset: Sequence[Example]) -> tuple[Tensor, list[str]]:
    """All pictures, uint8 (N, 3, H, W), and their captions. ValueError names every file that cannot be read."""
    images, texts, wrong = [], [], []
    for index in range(len(dataset)):
        try:
            example = dataset[index]
        except (OSError, ValueError) as error:
            wrong.append(str(error))
            continue
        images.append((example.image * 127.5 + 127.5).round().byte())
        texts.append(example.text)
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{len(wrong)} of {len(dataset)} pictures cannot be read: {'; '.join(wrong[:8])}{more}")
    if len(images) < FEWEST or len(set(texts)) < 2:
        raise ValueError(f"got {len(images)} pictures with {len(set(texts))} different captions, expected at least "
                         f"{FEWEST} and 2: there is nothing to tell apart")
    return torch.stack(images), texts


def text_encoder_for(texts: list[str]) -> TextEncoder:
    """A text encoder, untrained, whose tokenizer has each word of `texts` and room for the longest of them."""
    words = {word for text in texts for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]", text.lower())}
    tokenizer = build_tokenizer(words, length=77)
    longest = max(len(tokenizer(text, verbose=False).input_ids) for text in texts)
    if longest > 77:
        raise ValueError(f"text: got a caption of {longest} tokens, expected at most 77, start and end included")
    tokenizer.model_max_length = max(16, -(-longest // 8) * 8)
    config = replace(clip.TINY, vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id,
                     length=tokenizer.model_max_length)
    return TextEncoder(tokenizer, TextTransformer(config))


def train_autoencoder(images: Tensor, model: nn.Module, config: TrainConfig, batch: int, folder: Path, resume: bool,
                      device: torch.device) -> nn.Module:
    """Train an autoencoder on uint8 pictures (N, 3, H, W) with the loss of the shipped one; it has its scale then."""
    stage = FirstStage(model, LPIPS.tiny(), SHIPPED).to(device)

    def loss_fn(stage: FirstStage, generator: Generator) -> dict[str, Tensor]:
        return stage(to_float(images[pick_batch(len(images), batch, generator)].to(device)), generator)

    _run(stage, loss_fn, config, folder / "autoencoder", resume)
    model = load_ema(folder / "autoencoder/state.safetensors", stage).autoencoder
    with torch.no_grad():
        means = torch.cat([model.encode(to_float(part.to(device)))[0] for part in images[:2048].split(64)])
    model.config = replace(model.config, scale=1 / means.std().item())
    return model


class UnetLearner(nn.Module):
    """A U-Net and the text encoder that learns with it."""

    def __init__(self, unet: unet.UNet, text: TextEncoder):
        super().__init__()
        self.unet, self.text = unet, text


def train_unet(images: Tensor, texts: list[str], first: nn.Module, learner: UnetLearner, config: TrainConfig,
               batch: int, folder: Path, resume: bool, device: torch.device) -> LatentDiffusion:
    """Train a U-Net and its text encoder on the latents of an autoencoder; one caption in ten is left out."""
    schedule = scaled_linear_schedule()
    with torch.no_grad():
        latents = torch.cat([first.to_latent(to_float(part.to(device))) for part in images.split(64)])
    weight = loss_weights(schedule).to(device)

    def loss_fn(learner: UnetLearner, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), batch, generator)
        told = torch.rand(batch, generator=generator) > 0.1
        context = learner.text([texts[i] if known else "" for i, known in zip(pick.tolist(), told.tolist())])
        t = stratified(batch, schedule.T, generator).to(device)
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        return {"loss": (weight[t] * latent_loss(learner.unet, latents[pick], context, t, eps, schedule)).mean()}

    _run(learner.to(device), loss_fn, config, folder / "unet", resume)
    learner = load_ema(folder / "unet/state.safetensors", learner)
    return LatentDiffusion(learner.unet, first, learner.text, schedule)


def _run(model: nn.Module, loss_fn, config: TrainConfig, folder: Path, resume: bool) -> None:
    """Train, with a log and a state; a run that is done already is not done again, with `resume`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.safetensors"
    for _ in logged(train(model, loss_fn, config, state, resume and state.exists()), folder / "log.csv", folder.name,
                    config.steps):
        pass


def train_own(dataset: Sequence[Example], out: Path, size: int = 64, steps: int = 4000, first_steps: int = 1000,
              batch: int = 16, resume: bool = False, cold: bool = False,
              device: str | torch.device = "cpu") -> tuple[LatentDiffusion, list[Example]]:
    """A model of a data set of Examples, saved to the folder `out`, and the first of its pictures, for the doctor.

    size: pixels a side, a multiple of 8. steps, first_steps: of U-Net and autoencoder; both begin from the shipped
    ones, or, if `cold`, from random weights. Raises ValueError for a bad size, and as `read_pictures` does, before
    any training; FloatingPointError as `train` does.
    """
    if size < 16 or size % 8:
        raise ValueError(f"size: got {size}, expected a multiple of 8 from 16 on")
    images, texts = read_pictures(dataset)
    torch.manual_seed(0)
    text, device = text_encoder_for(texts), torch.device(device)
    config = replace(unet.TINY, sample_size=size // 8)
    first = autoencoder.Autoencoder(autoencoder.TINY) if cold else load_autoencoder(DATA / "tiny-worlds/vae")
    net = unet.UNet(config)
    if not cold:
        net.load_state_dict(load_unet(DATA / "tiny-worlds/unet").state_dict())
    run = partial(TrainConfig, save_every=100)
    first = train_autoencoder(images, first, run(first_steps, lr=5e-4), batch, out / "training", resume, device).eval()
    learner = UnetLearner(net, text)
    ldm = train_unet(images, texts, first, learner, run(steps, lr=8e-4), batch, out / "training", resume, device)
    ldm.save_pretrained(out)
    return ldm, [Example(to_float(image), caption, None) for image, caption in zip(images[:64], texts)]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.own_data", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64, help="pixels a side, 64 to 128")
    parser.add_argument("--steps", type=int, default=4000, help="of the U-Net")
    parser.add_argument("--first-steps", type=int, default=1000, help="of the autoencoder, before")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--torchvision", metavar="NAME", help="a classification set such as CIFAR10")
    parser.add_argument("--resume", action="store_true", help="continue a killed run")
    parser.add_argument("--cold", action="store_true", help="from random weights, not from the shipped ones")
    args = parser.parse_args(arguments)
    try:
        if args.torchvision:
            import torchvision
            source = getattr(torchvision.datasets, args.torchvision)(args.folder, download=True)
            dataset = CaptionedImages(source, (args.size, args.size), names=source.classes)
        else:
            dataset = CaptionedImages(read_folder(args.folder), (args.size, args.size))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        ldm, examples = train_own(dataset, args.out, args.size, args.steps, args.first_steps, args.batch, args.resume,
                                  args.cold, device)
    except (AttributeError, OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(f"saved to {args.out}; the doctor's findings on the first {len(examples)} pictures:")
    for finding in examine(ldm, examples) or ["none"]:
        print(finding)


if __name__ == "__main__":
    main()

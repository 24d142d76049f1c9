"""How every shipped checkpoint was made: `python -m ldm_edu.recipes oracle|vae|decoder|text-to-image --profile cpu|gpu`."""
from __future__ import annotations

import argparse
import csv
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see README: beside other programs, spinning threads starve torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import autoencoder, clip, unet
from .conditioning import TextEncoder, build_tokenizer
from .metrics import NOTHING, Oracle, labels
from .pipeline import LatentDiffusion
from .schedule import scaled_linear_schedule
from .training import TrainConfig, load_ema, train
from .scenes import make_caption, make_scene, vocabulary
from .weights import load_autoencoder, read_tensors, save_module, write_tensors
from .worlds import render, seeds_of, to_float



@dataclass(frozen=True)
class Profile:
    """What differs between a laptop and a GPU: `scenes` rendered once, `batch` of them a step."""

    train: TrainConfig
    batch: int
    scenes: int


PROFILES = {
    "oracle": {"cpu": Profile(TrainConfig(3000, lr=1e-3), batch=64, scenes=40_000),
               "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "vae": {"cpu": Profile(TrainConfig(8000, lr=1.5e-3), batch=8, scenes=30_000),
            "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "decoder": {"cpu": Profile(TrainConfig(8000, lr=1e-3), batch=8, scenes=30_000),
                "gpu": Profile(TrainConfig(20_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "text-to-image": {"cpu": Profile(TrainConfig(4000, lr=1e-3), batch=64, scenes=40_000),
                      "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)}}

LATER_SCENES = 10**6  # the decoder's own training scenes start here


def draw(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """`batch` random indices below `count`."""
    return torch.randint(count, (batch,), generator=generator)


# --- The recipes: each returns the model to train, its loss, and how to save the averaged weights -------------------

def soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the batch and add a little noise: the oracle must also read what a decoder has drawn."""
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    blurred = F.interpolate(small, size=images.shape[2:], mode="bilinear")
    amount = torch.rand(len(images), 1, 1, 1, generator=generator).mul(2).sub(1).clamp(min=0).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return images.lerp(blurred, amount) + 0.04 * noise


def oracle(profile: Profile, out: Path, device: torch.device):
    """A classifier of renders, some of them softened."""
    images = render("train", profile.scenes)
    answers = torch.stack([labels(make_scene(seed)) for seed in seeds_of("train", profile.scenes)])

    def loss_fn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        pick = draw(len(images), profile.batch, generator)
        logits = model(soften(to_float(images[pick].to(device)), generator))
        target = answers[pick].to(device)
        asked = [i for i in range(target.shape[1]) if (target[:, i] != NOTHING).any()]
        return {"cross_entropy": sum(F.cross_entropy(logits[i], target[:, i], ignore_index=NOTHING) for i in asked)}

    return Oracle(), loss_fn, lambda model: model.save(out / "model.safetensors")


def vae(profile: Profile, out: Path, device: torch.device):
    """The autoencoder: absolute and squared error, and a KL term just strong enough to keep the latents tame."""
    images = render("train", profile.scenes)

    def loss_fn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        x = to_float(images[draw(len(images), profile.batch, generator)].to(device))
        mean, logvar = model.encode(x)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator).to(mean)
        error = model.decode(z) - x
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {"l1": error.abs().mean(), "l2": 2 * error.square().mean(), "kl": 3e-4 * kl}

    def save(model: autoencoder.Autoencoder) -> None:
        with torch.no_grad():
            sample = to_float(images[:2048].to(device))
            std = torch.cat([model.encode(part)[0] for part in sample.split(256)]).std().item()
        model.config = replace(model.config, scale=1 / std)  # what the diffusion model sees has unit variance
        save_module(model, out / "vae", dtype=torch.float16)

    return autoencoder.Autoencoder(autoencoder.TINY), loss_fn, save


def decoder(profile: Profile, out: Path, device: torch.device):
    """More training for the decoder of `out`/vae alone: the latents, and what learned to draw in them, stay valid.

    Stability AI's sd-vae-ft-mse improved Stable Diffusion v1's decoder in the same way.
    """
    images = render("train", profile.scenes, start=LATER_SCENES)
    model = load_autoencoder(out / "vae")
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss_fn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        x = to_float(images[draw(len(images), profile.batch, generator)].to(device))
        with torch.no_grad():
            mean, logvar = model.encode(x)
            z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator).to(mean)
        error = model.decode(z) - x
        return {"l1": error.abs().mean(), "l2": 2 * error.square().mean()}

    return model, loss_fn, lambda model: save_module(model, out / "vae", dtype=torch.float16)


class TextToImage(nn.Module):
    """The two networks that learn together, as in section 3.3 of Rombach et al. 2021: tau and the U-Net."""

    def __init__(self):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=clip.TINY.length)
        config = replace(clip.TINY, vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id)
        self.text = TextEncoder(tokenizer, clip.TextTransformer(config))
        self.unet = unet.UNet(unet.TINY)


def cached_latents(profile: Profile, encoder: autoencoder.Autoencoder, path: Path, device: torch.device) -> Tensor:
    """Latents of the training scenes, float32 (N, 4, 8, 8), computed once: the U-Net never sees a pixel."""
    if not path.exists():
        parts = []
        for start in tqdm(range(0, profile.scenes, 500), desc="latents", unit="x500"):
            with torch.no_grad():
                images = render("train", min(500, profile.scenes - start), start)
                parts.append(encoder.to_latent(to_float(images.to(device))).cpu())
        write_tensors(path, {"latents": torch.cat(parts)})
    return read_tensors(path)["latents"]


def text_to_image(profile: Profile, out: Path, device: torch.device):
    """Text transformer and U-Net, jointly, on the latents of the autoencoder in `out`/vae; one caption in ten is empty."""
    schedule = scaled_linear_schedule()
    encoder = load_autoencoder(out / "vae").eval().to(device)
    latents = cached_latents(profile, encoder, state_folder(out, "text-to-image") / "latents.safetensors", device)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]

    def loss_fn(model: TextToImage, generator: torch.Generator) -> dict[str, Tensor]:
        pick = draw(len(latents), profile.batch, generator)
        rng = random.Random(generator.initial_seed())
        captions = ["" if rng.random() < 0.1 else make_caption(scenes[i], rng).text for i in pick.tolist()]
        # One t from each of `batch` equal parts of 0…T-1: uniform, with less variance than independent draws.
        t = ((torch.arange(len(pick)) + torch.rand(len(pick), generator=generator)) / len(pick) * schedule.T).long()
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        z_t = schedule.add_noise(latents[pick].to(device), eps, t.to(device))
        return {"mse": F.mse_loss(model.unet(z_t, t.to(device), model.text(captions)), eps)}

    def save(model: TextToImage) -> None:
        LatentDiffusion(model.unet, encoder, model.text, schedule).save_pretrained(out, dtype=torch.float16)

    return TextToImage(), loss_fn, save


RECIPES = {"oracle": oracle, "vae": vae, "decoder": decoder, "text-to-image": text_to_image}


# --- Running one ----------------------------------------------------------------------------------------------------

def state_folder(out: Path, name: str) -> Path:
    """Where a run keeps what it needs to resume, its log and its loss figure: beside the checkpoint, not in it."""
    return out.parent / "training" / f"{out.name}-{name}"


def draw_losses(log: Path) -> None:
    """The loss figure beside a CSV log: each part of the loss, averaged over 1 % of the run."""
    import matplotlib
    from matplotlib.figure import Figure

    with open(log) as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("step", "lr")]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    width = max(1, len(rows) // 100)
    for name in names:
        values = torch.tensor([float(row[name]) for row in rows])
        values = values[:len(values) // width * width].view(-1, width).mean(1)
        axes.plot([width * (i + 1) for i in range(len(values))], values, label=name)
    axes.set(title=f"{log.parent.name}: training loss", xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(log.with_name("loss.png"), dpi=80)


def run(name: str, profile: Profile, out: Path, resume: bool = False) -> None:
    """Train one recipe to its end and save it to `out`; a progress bar, a CSV log and a loss figure on the way.

    Raises ValueError for an unknown recipe, FileNotFoundError for `resume` without a checkpoint.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: expected one of {', '.join(RECIPES)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = state_folder(out, name)
    state, log = folder / "state.safetensors", folder / "log.csv"
    if resume and not state.exists():
        raise FileNotFoundError(f"--resume: there is no {state}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(profile.train.seed)
    model, loss_fn, save = RECIPES[name](profile, out, device)
    model = model.to(device)
    rows = []
    done = int(read_tensors(state)["step"]) if resume else 0
    if resume:
        with open(log) as file:
            rows = [row for row in csv.reader(file) if row[0] == "step" or int(row[0]) <= done]
    with open(log, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(rows)
        bar = tqdm(total=profile.train.steps, initial=done, desc=name, unit="step")
        for progress in train(model, loss_fn, profile.train, state, resume):
            if progress.step == 1:
                writer.writerow(["step", "lr", *progress.losses])
            writer.writerow([progress.step, f"{progress.lr:.3g}", *(f"{v:.6g}" for v in progress.losses.values())])
            bar.set_postfix(loss=f"{sum(progress.losses.values()):.4f}", refresh=False)
            bar.update()
            if progress.step % profile.train.save_every == 0:
                file.flush()
        bar.close()
    draw_losses(log)
    save(load_ema(state, model))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.recipes", description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--resume", action="store_true", help="continue a killed run, or prolong it with --steps")
    parser.add_argument("--out", type=Path, help="checkpoint folder (default: where the shipped one lies)")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    args = parser.parse_args(arguments)
    profile = PROFILES[args.name][args.profile]
    if args.steps:
        profile = replace(profile, train=replace(profile.train, steps=args.steps))
    if args.threads:
        torch.set_num_threads(args.threads)
    run(args.name, profile, args.out or Path("data/oracle" if args.name == "oracle" else "data/tiny-worlds"), args.resume)


if __name__ == "__main__":
    main()

"""How every shipped checkpoint was made.

`python -m ldm_edu.recipes oracle|vae|decoder|text-to-image --profile cpu|gpu [--resume] [--out DIR]`

On several GPUs, or with one thread on each of several CPU cores (faster than one process with several threads):
`torchrun --nproc-per-node 2 -m ldm_edu.recipes text-to-image --threads 1`; the batch grows with the processes.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see README: beside other programs, spinning threads starve torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import autoencoder, clip, unet
from .conditioning import TextEncoder, build_tokenizer
from .metrics import NOTHING, Oracle, labels
from .painting import CLASSES
from .pipeline import LatentDiffusion
from .scenes import make_caption, make_scene, vocabulary
from .schedule import scaled_linear_schedule
from .training import TrainConfig, draw_losses, load_ema, logged, processes, train
from .weights import load_autoencoder, read_tensors, save_module, write_tensors
from .worlds import render, seeds_of, to_float


@dataclass(frozen=True)
class Profile:
    """What differs between a laptop and a GPU: `scenes` rendered once, `batch` of them a step."""

    train: TrainConfig
    batch: int
    scenes: int


PROFILES = {
    "oracle": {"cpu": Profile(TrainConfig(4000, lr=1e-3), batch=64, scenes=40_000),
               "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "vae": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
            "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "decoder": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
                "gpu": Profile(TrainConfig(20_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "text-to-image": {"cpu": Profile(TrainConfig(8000, lr=8e-4), batch=32, scenes=30_000),
                      "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)}}


def pick_batch(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """`batch` random indices below `count`."""
    return torch.randint(count, (batch,), generator=generator)


# --- The recipes: each returns the model to train, its loss, and how to save the averaged weights. With `warm` the
# --- model starts from the weights in `out`, not from random ones.

def soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the batch and add a little noise: the oracle must also read what a decoder has drawn."""
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    blurred = F.interpolate(small, size=images.shape[2:], mode="bilinear")
    amount = torch.rand(len(images), 1, 1, 1, generator=generator).mul(2).sub(1).clamp(min=0).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return images.lerp(blurred, amount) + 0.04 * noise


def oracle(profile: Profile, out: Path, device: torch.device, warm: bool):
    """A classifier of renders, some of them softened."""
    images, _ = render("train", profile.scenes)
    answers = torch.stack([labels(make_scene(seed)) for seed in seeds_of("train", profile.scenes)])

    def loss_fn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        logits = model(soften(to_float(images[pick].to(device)), generator))
        target = answers[pick].to(device)
        asked = [i for i in range(target.shape[1]) if (target[:, i] != NOTHING).any()]
        return {"cross_entropy": sum(F.cross_entropy(logits[i], target[:, i], ignore_index=NOTHING) for i in asked)}

    path = out / "model.safetensors"
    return Oracle.load(path) if warm else Oracle(), loss_fn, lambda model: model.save(path)


def reconstruction_loss(error: Tensor, maps: Tensor) -> dict[str, Tensor]:
    """Absolute and squared error; the pixels of things, a tenth of all and most of what is said, count four times.

    error: (B, 3, H, W), decoded minus original; maps: (B, H, W), classes.
    """
    things = (maps > CLASSES.index("sun or moon")).unsqueeze(1)
    weight = (1 + 3 * things.float()).expand_as(error)
    weight = weight / weight.mean()
    return {"l1": (weight * error.abs()).mean(), "l2": 2 * (weight * error.square()).mean()}


def vae(profile: Profile, out: Path, device: torch.device, warm: bool):
    """The autoencoder: absolute and squared error, and a KL term just strong enough to keep the latents tame."""
    images, maps = render("train", profile.scenes)

    def loss_fn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        x = to_float(images[pick].to(device))
        mean, logvar = model.encode(x)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator).to(mean)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return reconstruction_loss(model.decode(z) - x, maps[pick].to(device)) | {"kl": 3e-4 * kl}

    def save(model: autoencoder.Autoencoder) -> None:
        with torch.no_grad():
            sample = to_float(images[:2048].to(device))
            std = torch.cat([model.encode(part)[0] for part in sample.split(256)]).std().item()
        model.config = replace(model.config, scale=1 / std)  # what the diffusion model sees has unit variance
        save_module(model, out / "vae", dtype=torch.float16)

    model = load_autoencoder(out / "vae") if warm else autoencoder.Autoencoder(autoencoder.TINY)
    return model, loss_fn, save


def cached_latents(profile: Profile, encoder: autoencoder.Autoencoder, out: Path, device: torch.device) -> Tensor:
    """Latents of the training scenes, float32 (N, 4, 8, 8), computed once: the U-Net never sees a pixel.

    The file's name tells the encoder's weights and the number of scenes, so that a stale one is never used.
    """
    weights = b"".join(p.detach().half().cpu().numpy().tobytes() for p in encoder.encoder.parameters())
    path = out.parent / "training" / f"latents-{hashlib.sha256(weights).hexdigest()[:12]}-{profile.scenes}.safetensors"
    if not path.exists() and processes()[0] == 0:
        parts = []
        for start in tqdm(range(0, profile.scenes, 100), desc="latents", unit="x100"):
            with torch.no_grad():
                images, _ = render("train", min(100, profile.scenes - start), start)
                parts.append(encoder.to_latent(to_float(images.to(device))).cpu())
        write_tensors(path, {"latents": torch.cat(parts)})
    if dist.is_initialized():
        dist.barrier()    # the others wait for the first
    return read_tensors(path)["latents"]


def decoder(profile: Profile, out: Path, device: torch.device, warm: bool):
    """More training for the decoder of `out`/vae alone: the latents, and what has learned to draw in them, stay valid.

    It always starts from that decoder, warm or not.
    Stability AI's sd-vae-ft-mse improved Stable Diffusion v1's decoder in the same way. The latents get a little
    noise, since those that a diffusion model draws are not perfect either.
    """
    model = load_autoencoder(out / "vae")
    latents = cached_latents(profile, model.eval().to(device), out, device)
    images, maps = render("train", profile.scenes)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss_fn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        z = latents[pick] + 0.05 * torch.randn(latents[pick].shape, generator=generator)
        error = model.from_latent(z.to(device)) - to_float(images[pick].to(device))
        return reconstruction_loss(error, maps[pick].to(device))

    return model, loss_fn, lambda model: save_module(model, out / "vae", dtype=torch.float16)


class TextToImage(nn.Module):
    """The two networks that learn together, as in section 3.3 of Rombach et al. 2021: tau and the U-Net."""

    def __init__(self):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=clip.TINY.length)
        config = replace(clip.TINY, vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id)
        self.text = TextEncoder(tokenizer, clip.TextTransformer(config))
        self.unet = unet.UNet(unet.TINY)


def text_to_image(profile: Profile, out: Path, device: torch.device, warm: bool):
    """Text transformer and U-Net, jointly, on the latents of the autoencoder in `out`/vae.

    One caption in ten is empty: that is what guidance will lead away from (Ho & Salimans 2022, arXiv:2207.12598).
    """
    schedule = scaled_linear_schedule()
    latents = cached_latents(profile, load_autoencoder(out / "vae").eval().to(device), out, device)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]

    def loss_fn(model: TextToImage, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), profile.batch, generator)
        rng = random.Random(generator.initial_seed())
        captions = ["" if rng.random() < 0.1 else make_caption(scenes[i], rng).text for i in pick.tolist()]
        # One t from each of `batch` equal parts of 0…T-1: uniform, with less variance than independent draws.
        t = ((torch.arange(len(pick)) + torch.rand(len(pick), generator=generator)) / len(pick) * schedule.T).long()
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        z_t = schedule.add_noise(latents[pick].to(device), eps, t.to(device))
        return {"mse": F.mse_loss(model.unet(z_t, t.to(device), model.text(captions)), eps)}

    def save(model: TextToImage) -> None:
        newest = load_autoencoder(out / "vae")    # its decoder may have been trained further meanwhile
        LatentDiffusion(model.unet, newest, model.text, schedule).save_pretrained(out, dtype=torch.float16)

    model = TextToImage()
    if warm:
        shipped = LatentDiffusion.from_pretrained(out)
        model.unet.load_state_dict(shipped.unet.state_dict())
        model.text.transformer.load_state_dict(shipped.text.transformer.state_dict())
    return model, loss_fn, save


RECIPES = {"oracle": oracle, "vae": vae, "decoder": decoder, "text-to-image": text_to_image}


# --- Running one ----------------------------------------------------------------------------------------------------

def state_folder(out: Path, name: str) -> Path:
    """Where a run keeps what it needs to resume, its log and its loss figure: beside the checkpoint, not in it."""
    return out.parent / "training" / f"{out.name}-{name}"


def run(name: str, profile: Profile, out: Path, resume: bool = False, warm: bool = False) -> None:
    """Train one recipe to its end and save it to `out`; a progress bar, a CSV log and a loss figure on the way.

    resume: continue a killed run, exactly. warm: a new run that starts from the weights in `out`. Raises ValueError
    for an unknown recipe, FileNotFoundError if there is nothing to resume or to start from.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: expected one of {', '.join(RECIPES)}")
    rank, _ = processes()
    gpus = torch.cuda.device_count()
    device = torch.device("cuda", rank % gpus) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)    # for the barrier, which is not told
    folder = state_folder(out, name)
    state, log = folder / "state.safetensors", folder / "log.csv"
    if resume and not state.exists():
        raise FileNotFoundError(f"--resume: there is no {state}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(profile.train.seed)
    model, loss_fn, save = RECIPES[name](profile, out, device, warm)
    model = model.to(device)
    steps = train(model, loss_fn, profile.train, state, resume)
    for _ in logged(steps, log, name, profile.train.steps) if rank == 0 else steps:
        pass
    if rank > 0:
        return
    draw_losses(log)
    save(load_ema(state, model))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ldm_edu.recipes", description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--resume", action="store_true", help="continue a killed run, or prolong it with --steps")
    parser.add_argument("--warm", action="store_true", help="a new run, from the weights in --out")
    parser.add_argument("--out", type=Path, help="checkpoint folder (default: where the shipped one lies)")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--threads", type=int, help="CPU threads for torch (default: all cores)")
    args = parser.parse_args(arguments)
    profile = PROFILES[args.name][args.profile]
    if args.steps:
        profile = replace(profile, train=replace(profile.train, steps=args.steps))
    if args.threads:
        torch.set_num_threads(args.threads)
    if "RANK" in os.environ:    # set by torchrun; the first process may compute latents for long while the others wait
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=2))
    out = args.out or Path("data/oracle" if args.name == "oracle" else "data/tiny-worlds")
    run(args.name, profile, out, args.resume, args.warm)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

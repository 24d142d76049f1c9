"""How every shipped checkpoint was made.

`python -m ldm_edu.recipes oracle|features|vae|decoder|contrast|text-to-image --profile cpu|gpu [--resume] [--out DIR]`

On several GPUs, or with one thread on each of several CPU cores (faster than one process with several threads):
`torchrun --nproc-per-node 2 -m ldm_edu.recipes text-to-image --threads 1`; the batch grows with the processes.
"""
from __future__ import annotations

import argparse
import os
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see README: beside other programs, spinning threads starve torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from . import clip, unet
from .conditioning import TextEncoder, build_tokenizer
from .first_stage import cached_latents, decoder, features, vae
from .metrics import NOTHING, Oracle, labels
from .pipeline import LatentDiffusion
from .scenes import Scene, make_caption, make_scene, misplaced, vocabulary
from .schedule import scaled_linear_schedule
from .training import Profile, TrainConfig, draw_losses, load_ema, logged, pick_batch, processes, train
from .weights import load_autoencoder
from .worlds import render, seeds_of, to_float

PROFILES = {
    "oracle": {"cpu": Profile(TrainConfig(4000, lr=1e-3), batch=64, scenes=40_000),
               "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "features": {"cpu": Profile(TrainConfig(1500, lr=1e-3), batch=32, scenes=10_000),
                 "gpu": Profile(TrainConfig(10_000, lr=1e-3, precision="bfloat16"), batch=128, scenes=100_000)},
    "vae": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
            "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "decoder": {"cpu": Profile(TrainConfig(8000, lr=7e-4), batch=8, scenes=30_000),
                "gpu": Profile(TrainConfig(20_000, lr=1e-3, precision="bfloat16"), batch=64, scenes=200_000)},
    "contrast": {"cpu": Profile(TrainConfig(160, lr=6e-4, cooldown=0.01), batch=32, scenes=30_000),
                 "gpu": Profile(TrainConfig(2000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)},
    "text-to-image": {"cpu": Profile(TrainConfig(8000, lr=8e-4), batch=32, scenes=30_000),
                      "gpu": Profile(TrainConfig(40_000, lr=1e-3, precision="bfloat16"), batch=256, scenes=200_000)}}


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


class TextToImage(nn.Module):
    """The two networks that learn together, as in section 3.3 of Rombach et al. 2021: tau and the U-Net."""

    def __init__(self):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=clip.TINY.length)
        config = replace(clip.TINY, vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id)
        self.text = TextEncoder(tokenizer, clip.TextTransformer(config))
        self.unet = unet.UNet(unet.TINY)


def contrast_loss(model: TextToImage, z_t: Tensor, eps: Tensor, snr: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    """-log of the probability that the model, asked which of two captions belongs to a latent, names the right one.

    z_t, eps (B, 4, 8, 8), snr, t (B,), captions: B right ones, then B wrong ones -> (). A diffusion model asked so
    compares how well each caption lets it predict (Li et al. 2023, arXiv:2303.16203), here the clean latent. Both
    captions share z_t and eps, whose chance cancels: what is left is what the words change. Wrong captions that differ
    in a word teach a text encoder which word belongs to what (Yuksekgonul et al. 2022, arXiv:2210.01936).
    """
    predicted = model.unet(torch.cat([z_t, z_t]), torch.cat([t, t]), model.text(captions))
    right, wrong = (predicted - torch.cat([eps, eps])).square().sum((1, 2, 3)).chunk(2)
    return F.softplus(0.06 * (right - wrong) / snr).mean()    # |eps error|² / SNR is |x_0 error|²


def right_and_wrong(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A caption that says where a thing of the scene stands, and the same one misplaced."""
    while (wrong := misplaced(text := make_caption(scene, rng).text, rng)) is None:
        pass
    return text, wrong


def text_to_image(profile: Profile, out: Path, device: torch.device, warm: bool, place_words: float = 0.0):
    """Text transformer and U-Net, jointly, on the latents of the autoencoder in `out`/vae.

    One caption in ten is empty: that is what guidance will lead away from (Ho & Salimans 2022, arXiv:2207.12598).
    place_words: weight of `contrast_loss`, on noisy latents of half as many scenes, every other with one thing only.
    """
    schedule = scaled_linear_schedule()
    latents = cached_latents(profile, load_autoencoder(out / "vae").eval().to(device), out, device)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]
    alone = torch.tensor([i for i, scene in enumerate(scenes) if len(scene.things) == 1])

    def noised(pick: Tensor, least: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """z_t, eps and t of the chosen scenes, one t from each of as many equal parts of least...most - 1: uniform,
        with less variance than independent draws."""
        parts = (torch.arange(len(pick)) + torch.rand(len(pick), generator=generator)) / len(pick)
        t = (least + parts * (most - least)).long().to(device)
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        return schedule.add_noise(latents[pick].to(device), eps, t), eps, t

    def loss_fn(model: TextToImage, generator: torch.Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(latents), profile.batch, generator)
        rng = random.Random(generator.initial_seed())
        captions = ["" if rng.random() < 0.1 else make_caption(scenes[i], rng).text for i in pick.tolist()]
        z_t, eps, t = noised(pick, 0, schedule.T, generator)
        losses = {"mse": F.mse_loss(model.unet(z_t, t, model.text(captions)), eps)}
        if place_words:
            pick = pick_batch(len(latents), profile.batch // 2, generator)
            pick[::2] = alone[pick[::2] % len(alone)]    # with which it is easier to begin
            right, wrong = zip(*(right_and_wrong(scenes[i], rng) for i in pick.tolist()))
            z_t, eps, t = noised(pick, 860, 999, generator)
            losses["contrast"] = place_words * contrast_loss(model, z_t, eps, schedule.snr(t.cpu()).to(device), t,
                                                             right + wrong)
        return losses

    def save(model: TextToImage) -> None:
        newest = load_autoencoder(out / "vae")    # its decoder may have been trained further meanwhile
        LatentDiffusion(model.unet, newest, model.text, schedule).save_pretrained(out, dtype=torch.float16)

    model = TextToImage()
    if warm:
        shipped = LatentDiffusion.from_pretrained(out)
        model.unet.load_state_dict(shipped.unet.state_dict())
        model.text.transformer.load_state_dict(shipped.text.transformer.state_dict())
    return model, loss_fn, save


def contrast(profile: Profile, out: Path, device: torch.device, warm: bool):
    """Text-to-image with right captions to tell from misplaced ones: the plain loss passes over "left" and "right".

    It left them at chance for 11,000 steps: a place word explains little of the noise, and only together with the word
    for a thing and the place of a pixel. Asked at noise levels where z_t itself still shows where the thing stands,
    the model learns to spoil its answer to a wrong caption instead; hence t >= 860. It starts from the weights in
    `out` and predicts noise worse than it found it: let `text-to-image --warm` follow. So far that loses most of what
    was gained: the shipped model does not place things better than chance yet.
    """
    return text_to_image(profile, out, device, warm=True, place_words=0.1)


RECIPES = {"oracle": oracle, "features": features, "vae": vae, "decoder": decoder, "contrast": contrast,
           "text-to-image": text_to_image}


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
    out = args.out or Path("data") / (args.name if args.name in ("oracle", "features") else "tiny-worlds")
    run(args.name, profile, out, args.resume, args.warm)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

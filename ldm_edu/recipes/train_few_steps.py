"""Distil the U-Net: a LoRA that draws in four steps without guidance what the model draws in 32 with it."""
from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from ..conditioning import guided
from ..distillation import landing_loss, teacher_path
from ..lora import add_lora, fingerprint, save_lora
from ..metrics.evaluation import GUIDANCE_SCALE
from ..pipeline import LatentDiffusion
from ..schedule import Schedule, scaled_linear_schedule, timesteps
from ..support.files import metadata_of, stream_tensors, write_tensors
from ..support.lora_files import NOTE, lora_file
from ..tiny_worlds.datasets import TinyWorlds
from ..training import pick_batch
from .profiles import Profile, Recipe

STEPS = 4             # of the student
TEACHER_STEPS = 32    # of DDIM; with more of them the pictures hardly change
KEPT = 8              # levels at which a path is kept: students of 8, 4, 2 and 1 steps learn from the same paths
RANK = 16             # of the LoRA: 1.4 MB


class Demonstration(NamedTuple):
    """What a teacher shows its students, on the device that they learn on."""

    paths: Tensor       # (N, KEPT + 1, 4, h, w), float16: from noise to latent
    contexts: Tensor    # (N, tokens, D), of a training caption each


@torch.no_grad()
def demonstrate(ldm: LatentDiffusion, count: int, file: Path, steps: int = TEACHER_STEPS) -> Demonstration:
    """Let a model draw `count` training captions, and keep its paths in `file`; if they are there, read them.

    On a GPU many at a time and in half precision: a step of its takes Python as long, however few they are.
    """
    device, captions = ldm.text(["a"]).device, TinyWorlds("train", count)
    texts = [captions.caption(i).text for i in tqdm(range(count), "captions", leave=False)]
    contexts = torch.cat([ldm.text(texts[i:i + 512]) for i in range(0, count, 512)])
    made_for = json.dumps([count, steps, *fingerprint(ldm.unet)])
    if not file.exists() or metadata_of(file).get(NOTE) != made_for:
        on_gpu, paths, empty = device.type == "cuda", [], ldm.text([""])
        noise = torch.randn(count, 4, *[ldm.unet.config.sample_size] * 2, generator=Generator().manual_seed(0))
        size = 4096 if on_gpu else 64
        with torch.autocast(device.type, torch.float16, enabled=on_gpu):
            for some, context in zip(tqdm(noise.split(size), "teacher's paths", leave=False), contexts.split(size)):
                eps = guided(ldm.unet, context, empty, GUIDANCE_SCALE)
                paths.append(teacher_path(eps, some.to(device), ldm.schedule, steps, KEPT).half())
        write_tensors(file, {"paths": torch.cat(paths)}, {NOTE: made_for})
    return Demonstration(dict(stream_tensors(file, torch.float16, device))["paths"], contexts)


def landing(shown: Demonstration, steps: int, batch: int):
    """Make the loss function of a student of `steps` steps."""
    device = shown.paths.device
    schedule = Schedule(scaled_linear_schedule().betas.to(device))
    levels = timesteps(steps, schedule.T, "trailing").to(device)

    def loss_fn(student: nn.Module, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(shown.paths), batch, generator)
        path, context = shown.paths[pick].float(), shown.contexts[pick]
        return {"loss": landing_loss(student, path, context, schedule, levels, generator)}

    return loss_fn


def few_steps_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train a LoRA on `root`'s U-Net to land in STEPS steps where the U-Net lands in TEACHER_STEPS, guided."""
    ldm = LatentDiffusion.from_pretrained(root / "tiny-worlds", device)
    shown = demonstrate(ldm, profile.scenes, root / "training/few_steps/paths.safetensors")
    add_lora(ldm.unet, RANK, everywhere=True)

    def save(student: nn.Module) -> Path:
        ldm.unet = student
        student.distilled = True
        folder = root / "few-steps"
        folder.mkdir(parents=True, exist_ok=True)
        save_lora(ldm, lora_file(folder), torch.float16)
        return folder

    return ldm.unet, landing(shown, STEPS, profile.batch), save

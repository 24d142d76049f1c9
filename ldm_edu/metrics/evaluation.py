"""The figures of the model card: what the oracle and the segmenter read from pictures that a model draws."""
from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import DATA
from ..pipeline import LatentDiffusion
from ..samplers import SAMPLERS
from ..support.checks import expect
from ..support.device import device_name, pick_device
from ..tiny_worlds.captions import Caption
from ..tiny_worlds.datasets import TinyWorlds, render, seeds_of, to_float
from ..tiny_worlds.scenes import HELD_OUT, make_scene
from .caption_accuracy import full_caption, score, surplus
from .distances import psnr
from .oracle import Oracle
from .segmenter import Segmenter, mean_iou

GUIDANCE_SCALE = 4.0              # for prompts
REFERENCE_GUIDANCE_SCALE = 2.0    # for pictures and semantic maps
RENDERS = 4     # times as many true scenes and reconstructions as prompts: they cost little, and few are misread


def generate(ldm: LatentDiffusion, conditions: list[str] | Tensor, steps: int = 30,
             guidance_scale: float = GUIDANCE_SCALE, seed: int = 0, batch: int = 64, task: str = "text_to_image",
             sampler: str | None = None) -> Tensor:
    """Draw one picture per condition, (B, 3, H, W) in [-1, 1]; batch k of them with seed + k.

    task: the method of `ldm` that draws them: "text_to_image", "variations" or "map_to_image".
    """
    options = dict(steps=steps, guidance_scale=guidance_scale, sampler=sampler)
    parts = range(0, len(conditions), batch)
    return torch.cat([getattr(ldm, task)(conditions[i:i + batch], seed=seed + k, **options).cpu()
                      for k, i in enumerate(tqdm(parts, desc="sampling", leave=False))])


def captions_of(split: str, count: int) -> list[Caption]:
    """Write `count` captions of a split. Those of "composition" all name a pair that is absent from training."""
    return [caption for _, caption in _captions(split, count)]


def _captions(split: str, count: int) -> Iterator[tuple[int, Caption]]:
    """Yield the numbers of scenes and their captions, as in `captions_of`."""
    captions = ((i, TinyWorlds(split, 100 * count).caption(i)) for i in itertools.count())
    if split == "composition":
        captions = ((i, c) for i, c in captions if any((m.kind, m.colour) in HELD_OUT for m in c.mentions))
    return itertools.islice(captions, count)


def evaluate_autoencoder(ldm: LatentDiffusion, oracle: Oracle, count: int = RENDERS * 512) -> dict[str, float]:
    """Measure, by name, what the oracle reads in `count` validation scenes and in their reconstructions: 0…1, or dB."""
    images, captions = to_float(render("validation", count)[0]), captions_of("validation", count)
    device = oracle.hidden.weight.device
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part.to(device))).cpu()
                             for part in tqdm(images.split(64), "reconstructions", leave=False)])
    read = oracle.read(images)
    original, decoded = score(captions, read), score(captions, oracle.read(rebuilt))
    return {"autoencoder: PSNR, dB": psnr(images, rebuilt).mean().item(),
            "renders: caption accuracy": original.accuracy, "renders: all right": original.all_right,
            "renders: more things than named": surplus(captions, read),
            "reconstructions: caption accuracy": decoded.accuracy, "reconstructions: all right": decoded.all_right}


def evaluate(ldm: LatentDiffusion, oracle: Oracle, count: int = 512, steps: int = 30,
             guidance_scale: float = GUIDANCE_SCALE, seed: int = 0, sampler: str | None = None,
             segmenter: Segmenter | None = None) -> dict[str, float]:
    """Measure, by name, the pictures of `count` prompts of each split, reference pictures and semantic maps: 0...1.

    Figures named "renders" are those of the true scenes. Conditions that the model does not have are left out.
    segmenter: by default the shipped one.
    """
    options, table = dict(steps=steps, seed=seed, sampler=sampler), {}
    for split in ("validation", "composition"):
        numbers, captions = zip(*_captions(split, count))
        read = oracle.read(generate(ldm, [c.text for c in captions], guidance_scale=guidance_scale, **options))
        result = score(captions, read)
        table |= {f"{split}: caption accuracy": result.accuracy, f"{split}: all right": result.all_right,
                  f"{split}: more things than named": surplus(captions, read)}
        table |= {f"{split}: {name} ({stated})": found / stated for name, (found, stated) in result.by_name.items()}
        if split == "composition":    # pairs that the oracle has never seen either
            true = torch.stack([TinyWorlds(split, 100 * count)[i].image for i in numbers])
            table["composition: renders, all right"] = score(captions, oracle.read(true)).all_right
    images, maps = render("validation", count)
    images, options = to_float(images), options | {"guidance_scale": REFERENCE_GUIDANCE_SCALE}
    if ldm.image_encoder is not None:
        shown = [full_caption(make_scene(own)) for own in seeds_of("validation", count)]
        drawn = generate(ldm, images, task="variations", **options)
        for name, pictures in (("renders", images), ("pictures", drawn)):
            table[f"image as condition: attributes kept, {name}"] = score(shown, oracle.read(pictures)).accuracy
    if ldm.map_encoder is not None:
        segmenter, drawn = segmenter or Segmenter.load(), generate(ldm, maps, task="map_to_image", **options)
        for name, pictures in (("renders", images), ("pictures", drawn)):
            table[f"map as condition: mean IoU, {name}"] = mean_iou(segmenter.read(pictures), maps.long())
    return table


def table(checkpoint: str | Path, judges: Path = DATA, count: int = 512, steps: int = 30,
          guidance_scale: float = GUIDANCE_SCALE, seeds: Sequence[int] = (0,),
          samplers: Sequence[str] = ("ddim", "ddpm")) -> list[str]:
    """Write the lines of the model card's table, in Markdown: a column for each sampler.

    judges: the folder with oracle and segmenter. With several seeds a figure is the mean, ± their standard deviation.
    Raises ValueError for a count below 1, unknown samplers, and a model of other pictures than the oracle reads.
    """
    expect(count >= 1, "count", count, "at least 1")
    expect({*samplers} <= {*SAMPLERS}, "samplers", " ".join(samplers), f"some of {', '.join(SAMPLERS)}")
    ldm = LatentDiffusion.from_pretrained(checkpoint, device := pick_device())
    oracle, segmenter = (kind.load(judges / name / "model.safetensors").to(device)
                         for kind, name in ((Oracle, "oracle"), (Segmenter, "segmenter")))
    side = ldm.unet.config.sample_size * ldm.autoencoder.factor
    expect(side == 64, "checkpoint", f"a model of {side} x {side} pixels", "64 x 64, which the oracle reads")
    scenes, prompts = RENDERS * count, [c.text for c in captions_of("validation", 16)]
    lines = [f"| {count} prompts a split, {steps} steps, guidance {guidance_scale:g} ({REFERENCE_GUIDANCE_SCALE:g} for "
             f"pictures and maps), seed {', '.join(map(str, seeds))}; {scenes} renders and reconstructions | "
             f"{' | '.join(samplers)} |", "|---" * (1 + len(samplers)) + "|"]
    first, columns, seconds = evaluate_autoencoder(ldm, oracle, scenes), [], []
    for sampler in samplers:
        columns.append([first | evaluate(ldm, oracle, count, steps, guidance_scale, seed, sampler, segmenter)
                        for seed in seeds])
        start = time.perf_counter()
        ldm.text_to_image(prompts, steps, guidance_scale, sampler=sampler).cpu()
        seconds.append(f"{time.perf_counter() - start:.1f} s")
    for name in columns[0][0]:
        cells = [_mean_and_spread([found[name] for found in column], name.endswith("dB")) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, f"| 16 pictures, {steps} steps, {device_name(device)} | {' | '.join(seconds)} |"]


def _mean_and_spread(values: list[float], in_db: bool) -> str:
    scale, unit = (1, "") if in_db else (100, "%")
    spread = f" ± {scale * stdev(values):.1f}" if len({*values}) > 1 else ""
    return f"{scale * mean(values):.1f}{spread}{unit}"

"""Does the picture show what the caption says? The oracle reads a picture, and the reading is held against the caption.

`python -m ldm_edu.metrics data/tiny-worlds` prints the table of the model card, a column for a sampler.
"""
from __future__ import annotations

import itertools

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..pipeline import LatentDiffusion
from ..tiny_worlds.captions import Caption
from ..tiny_worlds.datasets import TinyWorlds, render, seeds_of, to_float
from ..tiny_worlds.scenes import HELD_OUT, make_scene
from .caption_accuracy import everything, score, surplus
from .distances import psnr
from .oracle import Oracle
from .segmenter import Segmenter, mean_iou

GUIDANCE_SCALE = 4.0  # of the reported figures
REFERENCE_GUIDANCE_SCALE = 2.0    # of those told by a picture or a semantic map
RENDERS = 4     # times as many true scenes and reconstructions as prompts: they cost little, and few are misread


# --- The table of the model card ------------------------------------------------------------------------------------

def generate(ldm: LatentDiffusion, conditions: list[str] | Tensor, steps: int = 30, guidance: float = GUIDANCE_SCALE,
             seed: int = 0, batch: int = 64, task: str = "text_to_image", sampler: str | None = None) -> Tensor:
    """One picture per condition, (B, 3, 64, 64) in [-1, 1]; batch k of them is drawn with seed + k.

    task: the method of `ldm` that draws them: "text_to_image" from prompts, "variations" from pictures, "map_to_image"
    from semantic maps. sampler: None is the model's own.
    """
    options = dict(steps=steps, guidance=guidance, sampler=sampler)
    parts = range(0, len(conditions), batch)
    return torch.cat([getattr(ldm, task)(conditions[i:i + batch], seed=seed + k, **options).cpu()
                      for k, i in enumerate(tqdm(parts, desc="sampling", leave=False))])


def captions_of(split: str, count: int) -> list[Caption]:
    """`count` captions of a split. Those of "composition" all name a pair that training has never seen."""
    captions = (TinyWorlds(split, 100 * count).caption(i) for i in itertools.count())
    if split == "composition":
        captions = (c for c in captions if any((m.kind, m.colour) in HELD_OUT for m in c.mentions))
    return list(itertools.islice(captions, count))


def evaluate_autoencoder(ldm: LatentDiffusion, oracle: Oracle, count: int = RENDERS * 512) -> dict[str, float]:
    """The first figures of the model card, by name: `count` validation scenes and their reconstructions; 0…1, or dB."""
    dataset = TinyWorlds("validation", count)
    images = to_float(render("validation", count)[0])
    captions = [dataset.caption(i) for i in range(count)]
    with torch.no_grad():
        rebuilt = torch.cat([ldm.decode(ldm.autoencoder.to_latent(part)) for part in images.split(64)])
    read = oracle.read(images)
    original, decoded = score(captions, read), score(captions, oracle.read(rebuilt))
    return {"autoencoder: PSNR, dB": psnr(images, rebuilt).mean().item(),
            "renders: caption accuracy": original.accuracy, "renders: all right": original.all_right,
            "renders: more things than named": surplus(captions, read),
            "reconstructions: caption accuracy": decoded.accuracy, "reconstructions: all right": decoded.all_right}


def evaluate(ldm: LatentDiffusion, oracle: Oracle, count: int = 512, steps: int = 30, guidance: float = GUIDANCE_SCALE,
             seed: int = 0, sampler: str | None = None) -> dict[str, float]:
    """The other figures of the model card, by name, as shares: pictures of `count` prompts of each split, and of as
    many reference pictures and semantic maps; those with "renders" in the name are what the judges make of true scenes.

    Conditions that the model does not have are left out. sampler: None is the model's own.
    """
    options, table = dict(steps=steps, seed=seed, sampler=sampler), {}
    for split in ("validation", "composition"):
        captions = captions_of(split, count)
        read = oracle.read(generate(ldm, [c.text for c in captions], guidance=guidance, **options))
        result = score(captions, read)
        table |= {f"{split}: caption accuracy": result.accuracy, f"{split}: all right": result.all_right,
                  f"{split}: more things than named": surplus(captions, read)}
        table |= {f"{split}: {name} ({stated})": found / stated for name, (found, stated) in result.by_name.items()}
    images, maps = render("validation", count)
    images = to_float(images)
    if ldm.image_encoder is not None:
        shown = [everything(make_scene(own)) for own in seeds_of("validation", count)]
        drawn = generate(ldm, images, guidance=REFERENCE_GUIDANCE_SCALE, task="variations", **options)
        for name, pictures in (("renders", images), ("pictures", drawn)):
            table[f"image as condition: attributes kept, {name}"] = score(shown, oracle.read(pictures)).accuracy
    if ldm.map_encoder is not None:
        segmenter = Segmenter.load()
        drawn = generate(ldm, maps, guidance=REFERENCE_GUIDANCE_SCALE, task="map_to_image", **options)
        for name, pictures in (("renders", images), ("pictures", drawn)):
            table[f"map as condition: mean IoU, {name}"] = mean_iou(segmenter.read(pictures), maps.long())
    return table

"""Train the feature net under our LPIPS."""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from ..perceptual import FeatureNet
from ..support.files import save_weights
from ..tiny_worlds.datasets import seeds_of, to_float
from ..tiny_worlds.scenes import GROUNDS, SKIES, WEATHERS, Scene, make_scene
from ..tiny_worlds.things import CLASSES, COLOURS
from ..training import pick_batch
from .profiles import Profile, Recipe, training_scenes


class FeatureTeacher(nn.Module):
    """Predict what a scene shows from a feature net's maps, so that the net learns to see it.

    Images (B, 3, H, W) -> logits of every other pixel's class (B, 13, H/2, W/2) and colour (B, 8, H/2, W/2), then of
    sky (B, 3), ground (B, 4) and weather (B, 5).
    """

    def __init__(self, net: FeatureNet):
        super().__init__()
        self.net = net
        width = sum(net.channels)
        self.pixels = nn.Sequential(nn.Conv2d(width, 64, 1), nn.ReLU(), nn.Conv2d(64, len(CLASSES) + len(COLOURS), 1))
        self.around = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps, size = self.net(x), (x.shape[2] // 2, x.shape[3] // 2)
        column = torch.cat([F.max_pool2d(maps[0], 2), *(F.interpolate(m, size) for m in maps[1:])], 1)
        means = torch.cat([m.mean((2, 3)) for m in maps], 1)                              # (B, C)
        return (*self.pixels(column).split((len(CLASSES), len(COLOURS)), 1),
                *self.around(means).split((len(SKIES), len(GROUNDS), len(WEATHERS)), 1))


def colours_of(scene: Scene) -> Tensor:
    """List the colour of each class of a semantic map, int64 (13,); -1 where there is none or more than one."""
    colours = {kind: {t.colour for t in scene.things if t.kind == kind} for kind in CLASSES}
    return torch.tensor([list(COLOURS).index(*found) if len(found) == 1 else -1 for found in colours.values()])


def augment(images: Tensor, generator: Generator) -> Tensor:
    """Change brightness by up to 0.3 and contrast by up to 20 %, and add noise of up to 0.15."""
    shift, contrast, noise = torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device)
    rough = torch.randn(images.shape, generator=generator, device=images.device)
    return images * (0.8 + 0.4 * contrast) + 0.6 * (shift - 0.5) + 0.15 * noise.square() * rough


def features_recipe(profile: Profile, root: Path, device: torch.device) -> Recipe:
    """Train the feature net on augmented renders; it shares no weights with the oracle, which measures."""
    images, maps = (part.to(device) for part in training_scenes(profile.scenes))
    scenes = [make_scene(seed) for seed in tqdm(seeds_of("train", profile.scenes), "labels", leave=False)]
    colours = torch.stack([colours_of(scene) for scene in scenes]).to(device)             # (N, 13)
    around = torch.tensor([[SKIES.index(s.sky), GROUNDS.index(s.ground), WEATHERS.index(s.weather)] for s in scenes])
    around = around.to(device)

    def loss_fn(model: FeatureTeacher, generator: Generator) -> dict[str, Tensor]:
        pick = pick_batch(len(images), profile.batch, generator)
        classes, colour, *answers = model(augment(to_float(images[pick]), generator))
        target = maps[pick, ::2, ::2].long()
        painted = colours[pick].gather(1, target.flatten(1)).view_as(target)
        return {"classes": F.cross_entropy(classes, target),
                "colours": 0.2 * F.cross_entropy(colour, painted, ignore_index=-1),
                "around": 0.1 * sum(F.cross_entropy(a, r) for a, r in zip(answers, around[pick].unbind(1)))}

    path = root / "features/model.safetensors"
    return FeatureTeacher(FeatureNet()), loss_fn, lambda model: save_weights(model.net, path)

"""Training the second stage: one U-Net that predicts the noise in latents, told a text, a picture or a semantic map."""
from __future__ import annotations

import math
import random
from pathlib import Path

import torch
from torch import Tensor, nn

from . import unet
from .clip import CLIP, ImageConfig, ImageTransformer
from .conditioning import MapEncoder, TextEncoder, build_tokenizer
from .first_stage import cached_latents
from .painting import CLASSES
from .pipeline import LatentDiffusion
from .scenes import Scene, make_caption, make_scene, vocabulary
from .schedule import Schedule, scaled_linear_schedule
from .training import Profile
from .weights import load_autoencoder, load_clip
from .worlds import render, seeds_of, to_float

CONDITIONS = (*["text"] * 8, "image", "map")    # one of these a step; text most often, it is hardest
TINY_MAP = ImageConfig(image_size=64, patch_size=8, channels=len(CLASSES), dim=128, layers=2, heads=4, mlp_dim=512)


class SecondStage(nn.Module):
    """The U-Net and its three tau, each giving states (B, N, 128).

    Those of texts and images begin as CLIP's, that of maps at random, and all learn with the U-Net: "jointly
    optimized", Rombach et al. 2021, section 3.3. (Stable Diffusion leaves CLIP's text transformer as it is. Trials of
    that here, with a CLIP that knows places well and kinds of things poorly, are in the model card.)
    """

    def __init__(self, clip: CLIP):
        super().__init__()
        tokenizer = build_tokenizer(vocabulary(), length=clip.text.config.length)
        self.text = TextEncoder(tokenizer, clip.text)
        self.image = clip.image
        self.map = MapEncoder(ImageTransformer(TINY_MAP))
        self.unet = unet.UNet(unet.TINY)


def latent_loss(model: nn.Module, z_0: Tensor, context: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """|eps - eps_theta(z_t, t, tau(y))|² for each of B latents, as the mean over its numbers: (B,).

    z_0, eps: (B, 4, h, w), scaled latents and standard normal noise; context: tau(y), (B, N, D); t: (B,).
    Rombach et al. 2021, eq. 3; its mean over everything is the loss. The pixels do not occur in it.
    """
    z_t = schedule.add_noise(z_0, eps, t)
    return (model(z_t, t, context) - eps).square().mean((1, 2, 3))


def emphasis(schedule: Schedule, most: float = 30.0) -> Tensor:
    """How much the loss at each t counts: 1 / alpha_bar up to `most`, scaled to a mean of 1. (T,)

    Where z_t is nearly all noise, eps is nearly z_t, and what the words say of the picture hardly shows in the loss:
    left to itself the U-Net learned colours and kinds, and not in 500,000 captions where a thing stands. An error in
    eps is one of 1 / sqrt(alpha_bar) in v, Salimans & Ho 2022 (arXiv:2202.00512), so this is the loss of v. 1 for every
    t would be L_simple, Ho et al. 2020, eq. 14. (`most` is a judgement: values were not compared with all else equal.)
    """
    weight = (1 / schedule.alpha_bar).clamp(max=most)
    return weight / weight.mean()


def stratified(count: int, T: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps, one from each of as many equal parts of 0...T - 1: uniform, with less variance than draws.

    They come in random order: whatever is first in a batch must not be learned at small t alone.
    """
    parts = torch.randperm(count, generator=generator)
    t = ((parts + torch.rand(count, generator=generator)) / count * T).long()
    return t.clamp(max=T - 1)    # float32 may round the last one up to T


def logit_normal(t: Tensor, T: int, middle: float, spread: float = 0.5) -> Tensor:
    """Uniform timesteps, any shape, made logit-normal about `middle` x T: Esser et al. 2024 (arXiv:2403.03206), eq. 19.

    Where a picture goes wrong is told by chains begun from noised true scenes (`strength_study`): with a model that had
    seen half of its t about T / 2 and none more often about 0.93 T, 71 % of 128 captions of three things came out right
    from noise alone, 80 % from t = 900, 86 % from t = 500 (by hand). After a run with a quarter of t about each it was
    82, 82 and 90 %; after one with half about 0.55 T and an eighth about 0.93 T, 80, 80 and 91 %: what one t gains
    another loses. spread: of the normal variable; 0.5 has 95 % of t from 0.31 to 0.77 T about 0.55 T, or from 0.83 to
    0.975 T about 0.93 T.
    """
    z = math.log(middle / (1 - middle)) + spread * math.sqrt(2) * torch.erfinv(2 * (t + 0.5) / T - 1)
    return (torch.sigmoid(z) * T).long().clamp(max=T - 1)


def captioned_batch(scenes: list[Scene], three: list[int], batch: int,
                    rng: random.Random) -> tuple[list[int], list[str]]:
    """`batch` indices into scenes, and a caption of each: a third of them any, of the rest two in three naming three
    things, the others two, and those with a number ("two red mugs") twice as often as they come.

    Several things at once are learned last, and few scenes have them. They are chosen by the caption, not by the scene,
    so that the scenes of a caption remain what they are in the data. (Chosen by the scene, captions of two things come
    with a third far too often, and the model draws it.) One caption in ten is empty, all of them in the first third:
    what guidance leads away from (Ho & Salimans 2022, arXiv:2207.12598) is the data as it is.

    three: which of the scenes have three things; if none have, all are any.
    """
    indices, texts = [], []
    while len(indices) < batch:
        any_caption = not three or len(indices) < batch // 3
        wanted = 3 if len(indices) % 3 else 2
        i = rng.randrange(len(scenes)) if any_caption or wanted == 2 else rng.choice(three)
        caption = make_caption(scenes[i], rng)
        counts = [mention.count for mention in caption.mentions]
        if not any_caption and (sum(counts) != wanted or max(counts) == 1 and rng.random() < 0.5):
            continue
        indices.append(i)
        texts.append("" if any_caption and rng.random() < 0.3 else caption.text)
    return indices, texts


def learn_ldm(profile: Profile, out: Path, device: torch.device, warm: bool):
    """The U-Net under three conditions, on the latents of the autoencoder in `out`/vae, with the CLIP beside `out`.

    warm: no t counts as much more than others as at first; half of all t are about 0.55 T, where it is decided how many
    things there are and what they are, and an eighth about 0.93 T, where most of where they stand is (`logit_normal`).
    """
    schedule = scaled_linear_schedule()
    images, maps = render("train", profile.scenes)
    latents = cached_latents(images, load_autoencoder(out / "vae").eval().to(device), out, device)
    scenes = [make_scene(seed) for seed in seeds_of("train", profile.scenes)]
    three = [i for i, scene in enumerate(scenes) if len(scene.things) == 3]
    weight = emphasis(schedule, most=6.0 if warm else 30.0).to(device)

    def loss_fn(model: SecondStage, generator: torch.Generator) -> dict[str, Tensor]:
        rng = random.Random(generator.initial_seed())
        condition = rng.choice(CONDITIONS)
        indices, texts = captioned_batch(scenes, three, profile.batch, rng)
        pick = torch.tensor(indices)
        if condition == "text":
            context = model.text(texts)
        elif condition == "image":
            context = model.image(to_float(images[pick].to(device)))
        else:
            context = model.map(maps[pick].to(device))
        t = stratified(len(pick), schedule.T, generator)
        if warm:
            t[::2] = logit_normal(t[::2], schedule.T, middle=0.55)
            t[1::8] = logit_normal(t[1::8], schedule.T, middle=0.93)
        t = t.to(device)
        eps = torch.randn(latents[pick].shape, generator=generator).to(device)
        error = latent_loss(model.unet, latents[pick].to(device), context, t, eps, schedule)
        return {"loss": (weight[t] * error).mean()}

    def save(model: SecondStage) -> None:
        newest = load_autoencoder(out / "vae")    # its decoder may have been trained further meanwhile
        LatentDiffusion(model.unet, newest, model.text, schedule, model.image, model.map).save_pretrained(out)

    model = SecondStage(load_clip(out.parent / "clip"))
    model.unet.to(memory_format=torch.channels_last)    # a quarter faster on a CPU
    if warm:
        shipped = LatentDiffusion.from_pretrained(out)
        model.unet.load_state_dict(shipped.unet.state_dict())
        model.text.load_state_dict(shipped.text.state_dict())
        if shipped.map_encoder is not None:
            model.map.load_state_dict(shipped.map_encoder.state_dict())
        if shipped.image_encoder is not None:
            model.image.load_state_dict(shipped.image_encoder.state_dict())
    return model, loss_fn, save

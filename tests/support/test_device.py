"""Which device is taken; and that nothing asks a Mac's GPU for float64, on a stand-in, because we have no Mac."""
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ldm_edu import DATA
from ldm_edu.losses import loss_weights, noise_loss
from ldm_edu.metrics.caption_accuracy import score
from ldm_edu.metrics.distances import coverage, features, frechet_distance, precision_recall, psnr
from ldm_edu.metrics.evaluation import captions_of
from ldm_edu.metrics.oracle import Oracle
from ldm_edu.metrics.segmenter import Segmenter, mean_iou
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import SAMPLERS
from ldm_edu.support.device import pick_device
from ldm_edu.tiny_worlds.datasets import render, to_float
from ldm_edu.training import TrainConfig, train


@pytest.mark.parametrize("cuda, mps, picked", [
    (True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_fastest_device_is_picked(cuda, mps, picked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", cache(lambda: mps))
    assert pick_device() == picked and torch.device(picked).type == picked


class OnMac(Tensor):
    """A tensor that stands for one on a Mac's GPU: what is computed from it is one, too, and must not be float64.

    `.cpu()` makes a plain tensor of it. What is drawn anew on its device is plain as well, and not watched.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu:
            return result.as_subclass(Tensor)
        if any(isinstance(leaf, OnMac) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise RuntimeError(f"{func.__name__}: a Mac's GPU has no float64")
        return result

    def new_empty(self, *shape, **options):    # for deepcopy
        return super().new_empty(*shape, **options).as_subclass(OnMac)


def to_mac(module: nn.Module) -> nn.Module:
    """Move every weight to the stand-in."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().as_subclass(OnMac), value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = value.as_subclass(OnMac)
    return module


@pytest.fixture(scope="module")
def ldm() -> LatentDiffusion:
    ldm = LatentDiffusion.from_pretrained(DATA / "tiny-worlds")
    for part in vars(ldm).values():
        if isinstance(part, nn.Module):
            to_mac(part)
    return ldm


@pytest.fixture(scope="module")
def images() -> Tensor:
    return to_float(render("validation", 8)[0]).as_subclass(OnMac)


def test_the_stand_in_refuses_float64():
    x = torch.ones(3).as_subclass(OnMac)
    for wrong in (lambda: x.double(), lambda: x.to(torch.float64), lambda: x * torch.ones(3).double()):
        with pytest.raises(RuntimeError, match="a Mac's GPU has no float64"):
            wrong()
    assert type(x * 2) is type(x * torch.tensor(2.0).double()) is OnMac    # as there: a number on the CPU may have any
    assert x.cpu().double().dtype == torch.float64


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling(sampler, ldm):
    picture = ldm.text_to_image("a red boat", steps=3, sampler=sampler)
    assert isinstance(picture, OnMac) and picture.isfinite().all()


def test_editing(ldm, images):
    assert isinstance(ldm.image_to_image("a red boat", images[:1], strength=0.5, steps=4), OnMac)
    assert isinstance(ldm.inpaint("a red boat", images[:1], torch.ones(64, 64), steps=2), OnMac)


def test_a_training_step(ldm, images):
    with torch.no_grad():
        latents, context = ldm.autoencoder.to_latent(images), ldm.text(["a red boat"] * len(images))
    weight = loss_weights(ldm.schedule)

    def loss_fn(unet: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": noise_loss(unet, latents, context, ldm.schedule, weight, generator)}

    steps = list(train(ldm.unet, loss_fn, TrainConfig(2)))
    assert isinstance(steps[-1].parts["loss"], OnMac) and isinstance(next(steps[-1].ema.parameters()), OnMac)


def test_metrics(images):
    oracle, segmenter = to_mac(Oracle.load()), to_mac(Segmenter.load())
    maps = render("validation", 8)[1].long()
    assert score(captions_of("validation", 8), oracle.read(images)).accuracy > 0.9
    assert mean_iou(segmenter.read(images), maps) > 0.8
    assert mean_iou(maps.as_subclass(OnMac), maps.as_subclass(OnMac)) == 1
    seen = features(images).as_subclass(OnMac)
    assert frechet_distance(seen, seen) < 1e-3 and coverage(seen, seen) == precision_recall(seen, seen)[0] == 1
    assert psnr(images, images / 2).isfinite().all()

"""Beginning from pictures: against diffusers' image-to-image and inpainting pipelines, and what must hold by itself."""
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image
from reference import PROMPTS, SD, TOLERANCE, error, pair
from torch import Tensor

from ldm_edu import editing, samplers
from ldm_edu.editing import ddim_invert, image_to_image
from ldm_edu.samplers import SAMPLERS, ddim, last_x
from ldm_edu.schedule import timesteps

SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(**SD, set_alpha_to_one=False, timestep_spacing="leading"),
    "ddpm": lambda: DDPMScheduler(**SD, timestep_spacing="leading"),
    "euler": lambda: EulerDiscreteScheduler(**{name: SD[name] for name in SD if name != "clip_sample"}),
    "dpm_solver": lambda: DPMSolverMultistepScheduler(**{name: SD[name] for name in SD if name != "clip_sample"})}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGE = drawn(1, 3, 64, 64, seed=3).mul(0.5).clamp(-1, 1)
TWO = drawn(2, 3, 48, 80, seed=4).mul(0.5).clamp(-1, 1)
MASK = torch.zeros(1, 1, 64, 64)
MASK[..., 20:60, 13:50] = 1    # not on the grid of the latents


def theirs(kind, sampler: str, **call) -> Tensor:
    """Latents of a diffusers pipeline with the small model's weights."""
    pipe, _ = pair("tiny")
    parts = {name: getattr(pipe, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipe = kind(**parts, scheduler=SCHEDULERS[sampler](), safety_checker=None, feature_extractor=None,
                requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    seed = call.pop("seed", 5)
    return pipe(generator=torch.Generator().manual_seed(seed), output_type="latent", **call).images


def ours(monkeypatch, task: str, *args, **options) -> Tensor:
    """Latents that our method would decode."""
    _, mine = pair("tiny")
    seen = []
    monkeypatch.setattr(type(mine), "decode", lambda self, z: seen.append(z) or z)
    getattr(mine, task)(*args, **dict(seed=5) | options)
    return seen[0]


# ---- Against diffusers ----

@pytest.mark.parametrize("sampler, strength, steps", [
    *((sampler, *pair) for sampler in SAMPLERS for pair in ((0.6, 7), (1.0, 5))),
    ("ddim", 0.58, 50)])    # 28 steps: the product is 28.999...
def test_image_to_image_equals_diffusers(monkeypatch, sampler, strength, steps):
    found = ours(monkeypatch, "image_to_image", PROMPTS[0], IMAGE, strength, steps, 4.0, sampler=sampler)
    expected = theirs(StableDiffusionImg2ImgPipeline, sampler, prompt=PROMPTS[0], image=(IMAGE + 1) / 2,
                      strength=strength, num_inference_steps=steps, guidance_scale=4.0)
    assert error(found, expected) < TOLERANCE


@pytest.mark.parametrize("image", [IMAGE, TWO], ids=["one for both prompts", "one for each, not square"])
def test_batches_and_negative_prompts_equal_diffusers(monkeypatch, image):
    found = ours(monkeypatch, "image_to_image", PROMPTS, image, 0.5, 6, 3.0, negative_prompt=["a mouse", "night"])
    expected = theirs(StableDiffusionImg2ImgPipeline, "ddim", prompt=PROMPTS, negative_prompt=["a mouse", "night"],
                      image=(image + 1) / 2, strength=0.5, num_inference_steps=6, guidance_scale=3.0)
    assert error(found, expected) < TOLERANCE


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm_solver"])
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_inpainting_equals_diffusers(monkeypatch, sampler, strength):
    """Not with ddpm: diffusers draws a posterior that only U-Nets of 9 channels use, and so draws other noise later."""
    found = ours(monkeypatch, "inpaint", PROMPTS[0], IMAGE, MASK, strength, 6, 4.0, sampler=sampler)
    expected = theirs(StableDiffusionInpaintPipeline, sampler, prompt=PROMPTS[0], image=IMAGE, mask_image=MASK,
                      strength=strength, num_inference_steps=6, guidance_scale=4.0, height=64, width=64)
    assert error(found, expected) < TOLERANCE


def test_the_picture_itself_equals_diffusers():
    """Through the decoder, from a Pillow image."""
    pipe, mine = pair("tiny")
    image = Image.fromarray(((IMAGE[0] + 1) * 127.5).round().byte().movedim(0, -1).numpy())
    parts = {name: getattr(pipe, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipe = StableDiffusionImg2ImgPipeline(**parts, scheduler=SCHEDULERS["ddim"](), safety_checker=None,
                                          feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(PROMPTS[0], image, 0.6, 5, guidance_scale=4.0, generator=torch.Generator().manual_seed(5),
                    output_type="pt").images
    found = mine.image_to_image(PROMPTS[0], image, 0.6, 5, 4.0, seed=5)
    assert found.dtype == torch.float32 and error(found, 2 * expected - 1) < TOLERANCE


def _levels(keep):
    """`begin`, but with another number of the levels of `steps`."""
    def wrong(ldm, sampler, spacing, steps, seed, guidance_scale, strength):
        return sampler or ldm.sampler, timesteps(steps)[steps - keep(steps, strength):]
    return lambda patch: patch.setattr(editing, "begin", wrong)


MISTAKES = {
    "noise before the posterior": lambda patch: patch.setattr(editing, "encode_pictures", _noise_first),
    "start one step late": _levels(lambda steps, strength: int(steps * strength) - 1),
    "strength rounded, not cut": _levels(lambda steps, strength: round(steps * strength)),
    "noised one level too far": lambda patch: patch.setattr(
        editing, "start_from", lambda x_0, noise, schedule, t: samplers.start_from(x_0, noise, schedule, t + 100)),
}


def _noise_first(ldm, image, context, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(context), 4, 8, 8), generator=generator)
    return ldm.autoencoder.to_latent(image, generator), noise, generator


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees(monkeypatch, mistake):
    expected = theirs(StableDiffusionImg2ImgPipeline, "ddim", prompt=PROMPTS[0], image=(IMAGE + 1) / 2, strength=0.67,
                      num_inference_steps=7, guidance_scale=4.0)
    MISTAKES[mistake](monkeypatch)
    found = ours(monkeypatch, "image_to_image", PROMPTS[0], IMAGE, 0.67, 7, 4.0)
    assert error(found, expected) > 30 * TOLERANCE


def test_inversion_equals_diffusers():
    _, mine = pair("tiny")
    x, found = drawn(2, 4, 6, 5), []
    scheduler = DDIMInverseScheduler(**SD, set_alpha_to_one=False, timestep_spacing="leading")
    scheduler.set_timesteps(9)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return (1 + t / 1000) * (x - x.flip(1) / 2).tanh()

    for step, t in zip(ddim_invert(eps, x, mine.schedule, timesteps(9)), scheduler.timesteps, strict=True):
        x = scheduler.step(eps(x, t), t, x).prev_sample
        found.append(error(step.x, x))
        assert step.t == t
    assert max(found) < 3e-5


# ---- By itself ----

def test_inversion_leads_back_and_more_steps_lead_back_better():
    _, mine = pair("tiny")
    x_0 = drawn(1, 4, 8, 8).double()

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return x.tanh()

    def lost(steps: int) -> float:
        noise = last_x(ddim_invert(eps, x_0, mine.schedule, timesteps(steps)))
        return (last_x(ddim(eps, noise, mine.schedule, timesteps(steps))) - x_0).square().mean().sqrt().item()

    errors = [lost(steps) for steps in (10, 40, 160)]
    assert errors[2] < 0.02 and errors[0] > 2 * errors[1] > 4 * errors[2]


def test_strength_0_is_the_autoencoder_s_copy_and_more_strength_moves_further_from_it(monkeypatch):
    _, mine = pair("tiny")
    copy = mine.autoencoder.to_latent(IMAGE, torch.Generator().manual_seed(5))
    found = [ours(monkeypatch, "image_to_image", PROMPTS[0], IMAGE, s, 10, 4.0) for s in (0, 0.05, 0.3, 0.6, 1)]
    distances = [(z - copy).square().mean().item() for z in found]
    assert distances[0] == distances[1] == 0 < distances[2] < distances[3] < distances[4]


@pytest.mark.parametrize("rounds, strength, sampler", [(1, 1.0, "ddim"), (3, 1.0, "ddim"), (2, 0.5, "ddpm"),
                                                       (2, 0.5, "dpm_solver"), (1, 0, "euler")])
def test_outside_of_the_mask_the_latent_is_the_picture_s(monkeypatch, rounds, strength, sampler):
    _, mine = pair("tiny")
    copy = mine.autoencoder.to_latent(IMAGE, torch.Generator().manual_seed(5))
    found = ours(monkeypatch, "inpaint", PROMPTS[0], IMAGE, MASK, strength, 6, sampler=sampler, rounds=rounds)
    painted = MASK[..., ::8, ::8].bool().expand_as(found)
    assert torch.equal(found[~painted], copy[~painted])
    assert (found != copy)[painted].all() == (strength > 0)


def test_rounds_call_the_model_so_many_times_but_once_at_the_end(monkeypatch):
    _, mine = pair("tiny")
    calls, unet = [], mine.unet
    stand_in = SimpleNamespace(config=unet.config, __call__=None)

    class Counted(SimpleNamespace):
        def __call__(self, x, t, context):
            calls.append(int(t))
            return unet(x, t, context)

    monkeypatch.setattr(mine, "unet", Counted(**vars(stand_in)))
    ours(monkeypatch, "inpaint", PROMPTS[0], IMAGE, MASK, 1.0, 4, rounds=3)
    assert calls == [751] * 3 + [501] * 3 + [251] * 3 + [1]


def test_rounds_are_repaints_algorithm_1():
    """By hand, with eq. 12 of DDIM: paint, blend with the picture as noisy, noise back by one level, again."""
    schedule, levels, a = pair("tiny")[1].schedule, timesteps(5), pair("tiny")[1].schedule.alpha_bar
    z_0, noise, mask, ours, theirs = drawn(1, 4, 4, 4), drawn(1, 4, 4, 4, seed=1), torch.eye(4), *(
        torch.Generator().manual_seed(2) for _ in range(2))

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return (1 + t / 1000) * x.tanh()

    z = noise
    for t, t_prev in zip(levels, [*levels[1:], None]):
        prev = a[0] if t_prev is None else a[t_prev]
        kept = z_0 if t_prev is None else prev.sqrt() * z_0 + (1 - prev).sqrt() * noise
        for again in (2, 1, 0) if t_prev is not None else (0,):
            x0 = (z - (1 - a[t]).sqrt() * eps(z, t)) / a[t].sqrt()
            z = mask * (prev.sqrt() * x0 + (1 - prev).sqrt() * eps(z, t)) + (1 - mask) * kept
            if again:
                z = (a[t] / prev).sqrt() * z + (1 - a[t] / prev).sqrt() * torch.randn(z.shape, generator=theirs)
    found = last_x(editing.blended(eps, noise, z_0, noise, mask, schedule, "ddim", levels, 3, ours))
    torch.testing.assert_close(found, z)


def test_noising_back_has_the_variance_of_its_level():
    """Unit data have unit variance at every level: from one to the one before it stays so, correlation sqrt(alpha)."""
    _, mine = pair("tiny")
    x = drawn(200_000)
    for k in (0, 5):
        back = editing.renoised(x, mine.schedule, *timesteps(10)[k:k + 2], torch.Generator().manual_seed(1))
        here, there = (mine.schedule.alpha_bar[t] for t in ((901, 801) if k == 0 else (401, 301)))
        assert back.var().item() == pytest.approx(1, abs=0.02)
        assert (back * x).mean().item() == pytest.approx((here / there).sqrt().item(), abs=0.01)


def test_the_methods_are_the_functions():
    _, mine = pair("tiny")
    assert type(mine).image_to_image is image_to_image and type(mine).inpaint is editing.inpaint


def test_an_all_white_mask_paints_everything(monkeypatch):
    """What is left of the picture is nothing: two pictures, one result."""
    other = [ours(monkeypatch, "inpaint", PROMPTS[0], image, torch.ones(64, 64), 1.0, 4) for image in (IMAGE, -IMAGE)]
    assert torch.equal(*other)


@pytest.mark.parametrize("part, task", [
    ("unet", "text_to_image"), ("unet", "image_to_image"), ("vae", "text_to_image")])
def test_out_of_gpu_memory_says_what_to_lower(monkeypatch, part, task):
    _, mine = pair("tiny")

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(*(mine.unet, "forward") if part == "unet" else (mine.autoencoder, "decode"), full)
    with pytest.raises(torch.OutOfMemoryError, match=r"Draw fewer pictures .*smaller ones .*half precision.*2.00 GiB"):
        getattr(mine, task)("a house", *[IMAGE] * (task == "image_to_image"), steps=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_draws_nearly_the_same(dtype):
    """In float32 out of the decoder, whatever the networks compute in."""
    _, mine = pair("tiny")
    expected = mine.image_to_image(PROMPTS, IMAGE, 0.5, 4, seed=1)
    try:
        found = mine.to(dtype=dtype).image_to_image(PROMPTS, IMAGE, 0.5, 4, seed=1)
    finally:
        pair.cache_clear()    # rounded weights stay rounded
    assert found.dtype == torch.float32 and 0 < (found - expected).abs().mean() < 0.1

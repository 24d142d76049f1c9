"""Prompt to picture against diffusers' StableDiffusionPipeline: same weights, same seed, same picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from reference import (
    PROMPTS,
    SD,
    TOLERANCE,
    UNETS,
    WORDS,
    assemble,
    draw_theirs,
    error,
    latents,
    open_theirs,
    pair,
)
from safetensors.torch import save_file
from torch import Tensor

from ldm_edu import checkpoint, conditioning, pipeline, samplers
from ldm_edu.checkpoint import schedule_from_config, schedule_to_config
from ldm_edu.clip import TextConfig, TextTransformer
from ldm_edu.conditioning import TextEncoder, guided
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.schedule import Schedule, cosine_schedule, linear_schedule, scaled_linear_schedule
from ldm_edu.support import hub
from ldm_edu.support.scheduler_config import SCHEDULERS, sampler_from_config
from ldm_edu.tokenizer import build_tokenizer, save_tokenizer, tokenize

TINY_WORLDS = Path(__file__).parent.parent / "data" / "tiny-worlds"
@cache
def expected_picture(size: str) -> Tensor:
    return draw_theirs(pair(size)[0], PROMPTS, size=(64, 64))


# ---- Same weights, same seed, same picture ----

@pytest.mark.parametrize("size", UNETS)
def test_guided_ddim_equals_diffusers(size):
    found = pair(size)[1].text_to_image(PROMPTS, steps=10, guidance_scale=4.0, seed=5, size=64)
    assert found.dtype == torch.float32 and -1 <= found.min() and found.max() <= 1 and found.std() > 0.1
    assert error(found, expected_picture(size)) < TOLERANCE


@pytest.mark.parametrize("ours, theirs", [
    (dict(guidance_scale=1.0), dict(guidance_scale=1.0)),
    (dict(guidance_scale=0.3), dict(guidance_scale=0.3)),    # below 1 there is none either
    (dict(size=None), dict()),
    (dict(size=(48, 80)), dict(size=(48, 80))),
    (dict(size=40), dict(size=(40, 40))),        # odd latents
    (dict(negative_prompt="the night"), dict(negative_prompt=["the night"] * 2)),
    (dict(negative_prompt=["a mouse", ""]), dict(negative_prompt=["a mouse", ""])),
    (dict(seed=2**40), dict(seed=2**40)),
], ids=lambda options: "-".join(options))
def test_every_option_equals_diffusers(ours, theirs):
    pipe, mine = pair("tiny")
    found = latents(mine, PROMPTS, **dict(steps=4, guidance_scale=4.0, seed=5) | ours)
    assert error(found, draw_theirs(pipe, PROMPTS, steps=4, output="latent", **theirs)) < TOLERANCE


def test_ddpm_equals_diffusers():
    theirs, mine = pair("tiny")
    parts = {name: getattr(theirs, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    theirs = assemble(**parts, scheduler=DDPMScheduler(**SD, timestep_spacing="leading"))
    found = latents(mine, PROMPTS, steps=7, guidance_scale=4.0, seed=5, sampler="ddpm")
    assert error(found, draw_theirs(theirs, PROMPTS, steps=7, output="latent")) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "dpm_solver"])
def test_euler_and_dpm_solver_equal_diffusers(sampler):
    """From pure noise, which Euler's scheduler scales, with the spacing that each has by default."""
    theirs, mine = pair("tiny")
    parts = {name: getattr(theirs, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    config = {name: value for name, value in SD.items() if name != "clip_sample"}
    theirs = assemble(**parts, scheduler=getattr(diffusers, SCHEDULERS[sampler])(**config))
    expected = draw_theirs(theirs, PROMPTS, steps=7, output="latent")
    if sampler == "euler":    # whose last level is sigma = 0, where x / sqrt(alpha_bar) is x
        assert theirs.scheduler.sigmas[-1] == 0
    assert error(latents(mine, PROMPTS, steps=7, guidance_scale=4.0, seed=5, sampler=sampler), expected) < TOLERANCE


def test_the_empty_prompt_has_a_context_and_no_picture():
    _, mine = pair("tiny")
    assert torch.equal(mine.context(""), mine.text([""]))
    with pytest.raises(ValueError, match="prompt: got ''"):
        mine.predictor("")


def test_one_prompt_is_a_batch_of_one_and_batches_share_one_noise():
    _, mine = pair("tiny")
    one = latents(mine, PROMPTS[0], steps=3, seed=1)
    both = latents(mine, PROMPTS, steps=3, seed=1)
    assert one.shape == (1, 4, 8, 8) and error(both[:1], one) < TOLERANCE
    assert error(latents(mine, PROMPTS[0], steps=3, seed=2), one) > 0.1


def padded_with_0(ids: Tensor) -> Tensor:
    return ids.masked_fill((ids == ids.max()).cumsum(dim=1) > 1, 0)


def clean_at_0(schedule: Schedule) -> Schedule:
    schedule = Schedule(schedule.betas)
    schedule.alpha_bar[0] = 1
    return schedule


MISTAKES = {
    "guidance towards the negative prompt": lambda patch, mine: patch.setattr(
        pipeline, "guided", lambda unet, c, u, scale: guided(unet, u.expand_as(c), c, scale)),
    "guidance's w for its scale": lambda patch, mine: patch.setattr(
        pipeline, "guided", lambda unet, c, u, scale: guided(unet, c, u, scale + 1)),
    "offset forgotten": lambda patch, mine: patch.setitem(
        samplers.SAMPLERS, "ddim", lambda eps, x, schedule, levels, **options:
        samplers.ddim(eps, x, schedule, levels - 1, **options)),
    "last alpha_bar = 1": lambda patch, mine: patch.setattr(mine, "schedule", clean_at_0(mine.schedule)),
    "linear schedule": lambda patch, mine: patch.setattr(
        mine, "schedule", linear_schedule(1000, 0.00085, 0.012)),
    "scale factor forgotten": lambda patch, mine: patch.setattr(
        mine.autoencoder, "config", replace(mine.autoencoder.config, scale=1.0)),
    "scale factor of SDXL": lambda patch, mine: patch.setattr(
        mine.autoencoder, "config", replace(mine.autoencoder.config, scale=0.13025)),
    "padding with another token": lambda patch, mine: patch.setattr(
        conditioning, "tokenize", lambda tokenizer, prompts: padded_with_0(tokenize(tokenizer, prompts))),
    "another sampler": lambda patch, mine: patch.setitem(samplers.SAMPLERS, "ddim", samplers.ddpm),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees(mistake, monkeypatch):
    _, mine = pair("tiny")
    MISTAKES[mistake](monkeypatch, mine)
    found = mine.text_to_image(PROMPTS, steps=10, guidance_scale=4.0, seed=5)
    assert error(found, expected_picture("tiny")) > 10 * TOLERANCE


# ---- On disk ----

@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_diffusers_opens_what_we_save(dtype, tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "model", dtype=dtype)
    theirs, again = open_theirs(tmp_path / "model"), LatentDiffusion.from_pretrained(tmp_path / "model")
    expected = draw_theirs(theirs, PROMPTS, steps=4)
    assert type(theirs.scheduler) is DDIMScheduler and theirs.safety_checker is None
    assert error(again.text_to_image(PROMPTS, steps=4, seed=5), expected) < TOLERANCE
    if dtype == torch.float32:
        assert error(mine.text_to_image(PROMPTS, steps=4, seed=5), expected) < TOLERANCE


def test_we_open_what_diffusers_saves(tmp_path):
    theirs, _ = pair("tiny")
    theirs.save_pretrained(tmp_path)
    mine = LatentDiffusion.from_pretrained(str(tmp_path), device="cpu")
    assert not mine.unet.training and not mine.text.training
    found = mine.text_to_image(PROMPTS, steps=10, guidance_scale=4.0, seed=5)
    assert error(found, expected_picture("tiny")) < TOLERANCE


def test_saving_again_keeps_what_else_is_there(tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "model")
    (tmp_path / "model/README.md").write_text("card")
    (tmp_path / "model/safety_checker").mkdir()
    (tmp_path / "model/safety_checker/config.json").write_text("{}")
    mine.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model/README.md").read_text() == "card"
    assert (tmp_path / "model/safety_checker/config.json").exists()
    assert os.listdir(tmp_path) == ["model"]
    LatentDiffusion.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("killed_at", ["weights", "first move", "second move"])
def test_a_killed_save_loses_nothing(killed_at, tmp_path, monkeypatch):
    _, mine = pair("tiny")
    folder = tmp_path / "model"
    mine.save_pretrained(folder)
    (folder / "README.md").write_text("card")
    moves, move = [], os.replace

    def dying_move(source, target):
        if Path(source).is_dir():
            moves.append(source)
            if len(moves) == {"first move": 1, "second move": 2}[killed_at]:
                raise KeyboardInterrupt
        move(source, target)

    def dying_save(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if killed_at == "weights":
            patch.setattr(checkpoint, "save_tokenizer", dying_save)
        else:
            patch.setattr(os, "replace", dying_move)
        mine.save_pretrained(folder)
    LatentDiffusion.from_pretrained(folder if folder.exists() else tmp_path / "model.old")
    mine.save_pretrained(folder)
    assert os.listdir(tmp_path) == ["model"] and (folder / "README.md").read_text() == "card"


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])    # those of the card's table
def test_the_shipped_checkpoint_draws_the_same_in_diffusers(capsys, sampler):
    if not TINY_WORLDS.is_dir():
        pytest.skip(f"{TINY_WORLDS} is not there: python -m ldm_edu.recipes ldm makes it")
    prompts = ["a big red house on the left, at night, on the snow", "a small yellow boat at sunset"]
    mine = LatentDiffusion.from_pretrained(TINY_WORLDS)
    found = mine.text_to_image(prompts, steps=30, guidance_scale=4.0, seed=0, sampler=sampler)
    theirs = open_theirs(TINY_WORLDS)
    theirs.scheduler = getattr(diffusers, SCHEDULERS[sampler]).from_config(theirs.scheduler.config)
    expected = draw_theirs(theirs, prompts, steps=30, guidance_scale=4.0, seed=0)
    pixels, expected_pixels = ((255 * (images / 2 + 0.5)).round() for images in (found, expected))
    difference = (found - expected).abs().max().item() / 2
    with capsys.disabled():
        print(f"\nTiny Worlds in diffusers and here, 30 steps of {sampler}: max |Δ| {difference:.1e} of full range, "
              f"{(pixels - expected_pixels).abs().max():.0f} of 255 levels")
    assert difference <= 2e-3 and (pixels - expected_pixels).abs().max() <= 1


# ---- The scheduler's config ----

@pytest.mark.parametrize("schedule", [
    scaled_linear_schedule(), scaled_linear_schedule(500, 0.001, 0.02), linear_schedule(), cosine_schedule(),
    Schedule(scaled_linear_schedule().betas.double())], ids=["sd", "500", "linear", "cosine", "float64"])
def test_a_schedule_survives_the_disk_and_diffusers(schedule):
    config = json.loads(json.dumps(schedule_to_config(schedule)))
    assert torch.equal(schedule_from_config(config).betas, schedule.betas.float())
    theirs = DDIMScheduler.from_config(config)
    assert torch.equal(theirs.betas, schedule.betas.float())
    assert theirs.config.timestep_spacing == "leading" and theirs.config.steps_offset == 1
    assert not theirs.config.clip_sample and theirs.final_alpha_cumprod == theirs.alphas_cumprod[0]


@pytest.mark.parametrize("scheduler", [
    DDIMScheduler(**SD, set_alpha_to_one=False),
    DDPMScheduler(**SD, timestep_spacing="leading"),
    diffusers.PNDMScheduler.from_config(SD, skip_prk_steps=True),
    diffusers.EulerDiscreteScheduler.from_config(SD),
    DDIMScheduler(**SD | dict(beta_schedule="linear"), set_alpha_to_one=False),
    DDIMScheduler(**SD | dict(beta_schedule="squaredcos_cap_v2"), set_alpha_to_one=False),
], ids=["ddim", "ddpm", "pndm", "euler", "linear", "cosine"])
def test_diffusers_schedulers_are_read(scheduler, tmp_path):
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    torch.testing.assert_close(schedule_from_config(config).betas, scheduler.betas, rtol=0, atol=0)


def test_the_scheduler_of_sd_v1_5_is_read():
    config = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
              "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
              "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
              "steps_offset": 1, "trained_betas": None}
    assert torch.equal(schedule_from_config(config).betas, scaled_linear_schedule().betas)


@pytest.mark.parametrize("entry, value", [
    ("prediction_type", "v_prediction"), ("beta_schedule", "sigmoid"), ("rescale_betas_zero_snr", True),
    ("thresholding", True)])
def test_schedulers_that_we_do_not_implement_are_named(entry, value):
    with pytest.raises(ValueError, match=f"scheduler: got {entry} {value!r}, expected "):
        schedule_from_config(schedule_to_config(scaled_linear_schedule()) | {entry: value})


def test_a_scheduler_of_another_length_than_its_betas_is_named():
    config = schedule_to_config(linear_schedule(500)) | {"num_train_timesteps": 1000}
    with pytest.raises(ValueError, match="scheduler: got num_train_timesteps 1000 and 500 trained_betas"):
        schedule_from_config(config)


@pytest.mark.parametrize("folder", ["nowhere", "./nowhere", "data/nowhere", Path("some/where"), "/no/folder"])
def test_a_folder_that_is_not_there_is_named_without_asking_the_hub(folder, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: pytest.fail("asked the hub"))
    expected = f"folder: {Path(folder)} does not exist; expected in it: model_index.json, tokenizer/"
    with pytest.raises(FileNotFoundError, match=expected):
        LatentDiffusion.from_pretrained(folder)


def test_a_hub_name_is_asked_for_there_and_offline_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'no-one/nothing' is not a folder here, .* not be downloaded"):
        LatentDiffusion.from_pretrained("no-one/nothing")


def test_a_hub_download_is_opened(monkeypatch, tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "snapshot")
    asked = []

    def download(name, allow_patterns):
        asked.append((name, "unet/diffusion_pytorch_model.safetensors" in allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    LatentDiffusion.from_pretrained("some-one/model")
    assert asked == [("some-one/model", True)]


def test_of_a_model_in_half_precision_alone_those_files_are_downloaded(monkeypatch, tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "hub")
    for file in (tmp_path / "hub").glob("*/*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))

    def download(name, allow_patterns):
        return shutil.copytree(tmp_path / "hub", tmp_path / "cache", dirs_exist_ok=True, ignore=lambda folder, names: [
            name for name in names if (path := Path(folder, name)).is_file()
            and not any(path.relative_to(tmp_path / "hub").match(pattern) for pattern in allow_patterns)])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert LatentDiffusion.from_pretrained("some-one/model").text_to_image("a house", steps=1).shape == (1, 3, 64, 64)


def test_the_hub_s_answers_are_put_in_plain_words(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def answer(error: Exception):
        def download(name, allow_patterns):
            raise error
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    answer(RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None)))
    with pytest.raises(FileNotFoundError, match="'some-one/modle' is not a folder here, .* no model of that name"):
        LatentDiffusion.from_pretrained("some-one/modle")
    answer(LocalEntryNotFoundError("no connection"))
    with pytest.raises(FileNotFoundError, match="With a network, `hf download some-one/model` fetches it"):
        LatentDiffusion.from_pretrained("some-one/model")


def test_the_hub_s_cache_serves_without_a_network(monkeypatch, tmp_path):
    """By the library itself: a cache laid out as it does, no connection, and only the files that are needed."""
    _, mine = pair("tiny")
    snapshot = tmp_path / "cache/models--some-one--model/snapshots/abc"
    mine.save_pretrained(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text("abc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", partial(
        huggingface_hub.snapshot_download, cache_dir=tmp_path / "cache", local_files_only=True))
    found, expected = (LatentDiffusion.from_pretrained(name) for name in ("some-one/model", snapshot))
    assert error(latents(found, PROMPTS, steps=2), latents(expected, PROMPTS, steps=2)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_arrive_in_the_dtype_asked_for(dtype, tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path, dtype=torch.float32)
    found = LatentDiffusion.from_pretrained(tmp_path, dtype=dtype)
    for part in ("unet", "autoencoder", "text"):
        for name, value in getattr(found, part).state_dict().items():
            assert torch.equal(value, getattr(mine, part).state_dict()[name].to(dtype)), name


def test_a_folder_in_half_precision_alone_is_opened(tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "whole")
    for file in (shutil.copytree(tmp_path / "whole", tmp_path / "half")).glob("*/*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    whole, half = (LatentDiffusion.from_pretrained(tmp_path / name) for name in ("whole", "half"))
    assert error(latents(half, PROMPTS, steps=2), latents(whole, PROMPTS, steps=2)) == 0


def test_what_we_refuse_is_named(tmp_path, monkeypatch):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "good")
    broken = shutil.copytree(tmp_path / "good", tmp_path / "broken")
    config = json.loads((broken / "unet/config.json").read_text())
    for change in (dict(use_linear_projection=True), dict(attention_head_dim=[5, 10, 20, 20])):
        (broken / "unet/config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="broken with Stable Diffusion 2 .*expected version 1"):
            LatentDiffusion.from_pretrained(broken)
    (broken / "unet/config.json").write_text(json.dumps(config))
    weights = broken / "vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="vae lacks diffusion_pytorch_model.safetensors; .*_model.bin is a "
                                                "pickle, which can run any code .* not read. If you"):
        LatentDiffusion.from_pretrained(broken)
    monkeypatch.setattr(hub, "free_memory", lambda device: 2**20)
    monkeypatch.setattr(checkpoint, "load_module", lambda *args: pytest.fail("allocated"))
    with pytest.raises(MemoryError, match="good needs 0.0 GiB as torch.float32, and 0.0 GiB are free on cpu; in float"):
        LatentDiffusion.from_pretrained(tmp_path / "good")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process held at most")
def test_loading_needs_hardly_more_memory_than_the_weights(tmp_path):
    """In a process of its own, on 300 MiB of weights in 5 MiB tensors: at most 1.2 times as much on top."""
    tensors = {f"unit.{i}.weight": torch.full((2**20 + 2**18,), float(i)) for i in range(60)}
    save_file(tensors, tmp_path / "model.safetensors")
    code = f"""
import torch
from pathlib import Path
from ldm_edu.support import files
files.CHUNK = 2**25
def most(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
torch.ones(10).half()
before = most()
found = dict(files.stream_tensors("{tmp_path}/model.safetensors"))
assert all((value == int(name.split(".")[1])).all() for name, value in found.items())
print(most() - before)
"""
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 300 <= grown <= 1.2 * 300


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_the_sampler_of_a_folder_is_the_model_s_own(sampler, tmp_path):
    """Ours both ways; diffusers' class of it, too."""
    _, mine = pair("tiny")
    theirs = getattr(diffusers, SCHEDULERS[sampler])
    scheduler = theirs.from_config(checkpoint.schedule_to_config(mine.schedule, sampler))
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sampler_from_config(config) == (sampler, None)
        assert sampler_from_config(dict(_class_name=SCHEDULERS[sampler])) == (sampler, None)
    mine = LatentDiffusion(mine.unet, mine.autoencoder, mine.text, mine.schedule, sampler=sampler)
    mine.save_pretrained(tmp_path / "model")
    found = LatentDiffusion.from_pretrained(tmp_path / "model")
    assert found.sampler == sampler and type(open_theirs(tmp_path / "model").scheduler) is theirs
    both = [latents(found, PROMPTS, steps=3, seed=1, **options) for options in ({}, dict(sampler=sampler))]
    assert torch.equal(*both)


OPTIONS = {    # that change pictures, of each class of diffusers' schedulers
    "DDIMScheduler": dict(set_alpha_to_one=True, timestep_spacing="linspace"),
    "DDPMScheduler": dict(variance_type="fixed_large"),
    "EulerDiscreteScheduler": dict(interpolation_type="log_linear", use_exponential_sigmas=True, use_karras_sigmas=True,
                                   use_beta_sigmas=True, sigma_max=20.0, sigma_min=0.1, final_sigmas_type="sigma_min",
                                   timestep_type="continuous"),
    "DPMSolverMultistepScheduler": dict(
        use_lu_lambdas=True, use_exponential_sigmas=True, lambda_min_clipped=-5.1, use_beta_sigmas=True,
        use_flow_sigmas=True, variance_type="learned", use_karras_sigmas=True, solver_order=3, solver_type="heun",
        algorithm_type="sde-dpmsolver++", euler_at_final=True, lower_order_final=False, use_dynamic_shifting=True)}


@pytest.mark.parametrize("kind", [*OPTIONS, "PNDMScheduler", "UniPCMultistepScheduler"])
def test_what_diffusers_has_by_default_is_followed_or_said(kind, tmp_path):
    """Every option of the class, so one that a later version of diffusers adds is looked at here."""
    scheduler = getattr(diffusers, kind).from_config(dict(clip_sample=False, steps_offset=1, set_alpha_to_one=False))
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    if kind in OPTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert sampler_from_config(config) == (next(k for k, v in SCHEDULERS.items() if v == kind), None)
    else:
        with pytest.warns(UserWarning, match=f"{kind} is not among our samplers; ddim is used"):
            assert sampler_from_config(config) == ("ddim", None)


@pytest.mark.parametrize("kind, option", [(kind, option) for kind in OPTIONS for option in OPTIONS[kind]])
def test_no_option_that_changes_pictures_is_passed_over(kind, option):
    with pytest.warns(UserWarning, match=re.escape(f"{kind} with {option} = {OPTIONS[kind][option]!r} is not")):
        sampler_from_config({"_class_name": kind, option: OPTIONS[kind][option]})


def test_an_option_that_we_do_not_know_is_said_unless_it_is_off():
    with pytest.warns(UserWarning, match="DDIMScheduler with use_magic = True is not followed"):
        sampler_from_config({"_class_name": "DDIMScheduler", "use_magic": True, "use_more_magic": False})


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "KarrasVeScheduler"])
def test_a_scheduler_of_other_models_is_refused(kind):
    with pytest.raises(ValueError, match=f"scheduler: got {kind}, expected one of DDIMScheduler, "):
        sampler_from_config({"_class_name": kind})


def test_old_folders_of_stable_diffusion_are_corrected_as_in_diffusers(tmp_path):
    """Their steps_offset 0 and clip_sample true are mistakes, mended there with a warning: the same pictures."""
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path, dtype=torch.float32)
    path = tmp_path / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps_offset": 0, "clip_sample": True}))
    with pytest.warns(UserWarning, match="steps_offset is taken as 1 and clip_sample as false, as diffusers does"):
        found = latents(LatentDiffusion.from_pretrained(tmp_path), PROMPTS, steps=3, seed=5, guidance_scale=4.0)
    assert error(found, draw_theirs(open_theirs(tmp_path), PROMPTS, steps=3, output="latent")) < TOLERANCE


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "dpm_solver"])
def test_a_spacing_equals_diffusers(sampler, spacing, tmp_path):
    """Of the folder, and as an argument. 4 steps: with "trailing" 1000 / 4 is whole, so DDIM's steps agree."""
    if (sampler, spacing) == ("ddim", "linspace"):
        pytest.skip("diffusers steps by T // steps, past the level that it visits next")
    theirs, mine = pair("tiny")
    parts = {name: getattr(theirs, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    config = {name: value for name, value in SD.items() if name != "clip_sample" or sampler in ("ddim", "ddpm")}
    own = dict(set_alpha_to_one=False) if sampler == "ddim" else {}
    theirs = assemble(**parts, scheduler=getattr(diffusers, SCHEDULERS[sampler])(
        **config, **own, timestep_spacing=spacing))
    expected = draw_theirs(theirs, PROMPTS, steps=4, output="latent")
    asked = dict(steps=4, guidance_scale=4.0, seed=5)
    assert error(latents(mine, PROMPTS, sampler=sampler, spacing=spacing, **asked), expected) < TOLERANCE
    theirs.save_pretrained(tmp_path)
    assert error(latents(LatentDiffusion.from_pretrained(tmp_path), PROMPTS, **asked), expected) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "dpm_solver"])
def test_the_idiom_for_another_sampler_is_leading(sampler, tmp_path):
    """X.from_config(pipe.scheduler.config) keeps the spacing that the folder's scheduler names."""
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path, dtype=torch.float32)
    theirs = open_theirs(tmp_path)
    theirs.scheduler = getattr(diffusers, SCHEDULERS[sampler]).from_config(theirs.scheduler.config)
    expected = draw_theirs(theirs, PROMPTS, steps=7, output="latent")
    found = {spacing: error(latents(mine, PROMPTS, steps=7, guidance_scale=4.0, seed=5, sampler=sampler,
                                    spacing=spacing), expected) for spacing in ("leading", None)}
    assert found["leading"] < TOLERANCE < 0.01 < found[None]


def test_broken_folders_are_named(tmp_path):
    _, mine = pair("tiny")
    mine.save_pretrained(tmp_path / "good")

    def broken(name: str, change) -> Path:
        folder = shutil.copytree(tmp_path / "good", tmp_path / "broken", dirs_exist_ok=True)
        change(folder / name)
        return folder

    with pytest.raises(FileNotFoundError, match="broken lacks vae/config.json"):
        LatentDiffusion.from_pretrained(broken("vae/config.json", Path.unlink))
    with pytest.raises(ValueError, match="model_index.json is not JSON"):
        LatentDiffusion.from_pretrained(broken("model_index.json", lambda path: path.write_text("{")))
    with pytest.raises(FileNotFoundError, match="tokenizer has neither vocab.json and merges.txt nor tokenizer.json"):
        LatentDiffusion.from_pretrained(broken("tokenizer/vocab.json", Path.unlink))
    shutil.rmtree(tmp_path / "broken")
    other = build_tokenizer(["other", "words"], length=32)
    with pytest.raises(ValueError, match=r"with a tokenizer of 5.. tokens, expected 5.., as its text encoder"):
        LatentDiffusion.from_pretrained(broken("tokenizer", lambda path: save_tokenizer(other, path)))
    shutil.rmtree(tmp_path / "broken")
    nine = json.dumps(json.loads((tmp_path / "good/unet/config.json").read_text()) | {"in_channels": 9})
    with pytest.raises(ValueError, match="with a U-Net of 9 channels, expected 4 channels, as its autoencoder; mod"):
        LatentDiffusion.from_pretrained(broken("unet/config.json", lambda path: path.write_text(nine)))
    shutil.rmtree(tmp_path / "broken")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    with pytest.raises(ValueError, match="safetensors is not the file but a git-lfs pointer to it; `git lfs pull`"):
        LatentDiffusion.from_pretrained(broken("vae/diffusion_pytorch_model.safetensors",
                                               lambda path: path.write_text(pointer)))
    shutil.rmtree(tmp_path / "broken")

    def shard(path):
        path.rename(path.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
        path.with_name(path.name + ".index.json").write_text("{}")

    with pytest.raises(FileNotFoundError, match="unet holds its weights in several files, which are not read"):
        LatentDiffusion.from_pretrained(broken("unet/diffusion_pytorch_model.safetensors", shard))
    shutil.rmtree(tmp_path / "broken")
    sdxl = json.dumps({"_class_name": "StableDiffusionXLPipeline"})
    with pytest.raises(ValueError, match="with a StableDiffusionXLPipeline, expected a StableDiffusionP"):
        LatentDiffusion.from_pretrained(broken("model_index.json", lambda path: path.write_text(sdxl)))
    name = "unet/diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match="unet/diffusion_pytorch_model.safetensors is damaged or cut short"):
        LatentDiffusion.from_pretrained(broken(name, lambda path: os.truncate(path, 100_000)))


# ---- The text encoder ----

def test_the_text_encoder_trains():
    tokenizer = build_tokenizer(WORDS)
    config = TextConfig(vocab_size=tokenizer.get_vocab_size(), dim=16, layers=1, heads=2, mlp_dim=32, length=32)
    encoder = TextEncoder(tokenizer, TextTransformer(config))
    encoder(PROMPTS).square().mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("change, message", [
    (dict(vocab_size=100), "tokenizer: got 5.. tokens, .* expected at most 100"),
    (dict(length=77), "tokenizer: .* length 32, expected at most 1000 and exactly 77"),
])
def test_a_tokenizer_must_fit_its_transformer(change, message):
    config = replace(TextConfig(vocab_size=1000, dim=16, layers=1, heads=2, mlp_dim=32, length=32), **change)
    with pytest.raises(ValueError, match=message):
        TextEncoder(build_tokenizer(WORDS), TextTransformer(config))


def test_words_that_a_small_vocabulary_lacks_are_named_once():
    ldm = LatentDiffusion.from_pretrained(TINY_WORLDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ldm.predictor("two red boats, at night!", negative_prompt="a cat's house")
    with pytest.warns(UserWarning) as said:
        ldm.text_to_image(["a dog riding a bicycle", "a Dog on the snow"], steps=1, negative_prompt="blurry")
    assert [str(warning.message).split(" not in")[0] for warning in said] == [
        "prompt: 'dog', 'riding', 'bicycle', 'Dog'", "negative_prompt: 'blurry'"]
    with pytest.raises(ValueError, match="text: got 42 tokens in 'cat cat"):
        ldm.text_to_image("a cat", negative_prompt="cat " * 40)


# ---- Guidance ----

def spy_unet(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Answers with each item's context, and its latent."""
    spy_unet.batches.append(len(x))
    return context.mean(dim=(1, 2))[:, None, None, None] + x


def test_guidance_by_hand():
    spy_unet.batches = []
    x, cond, uncond = torch.zeros(2, 4, 3, 3), torch.full((2, 5, 6), 3.0), torch.full((1, 5, 6), 1.0)
    cond[1] = 5.0
    found = guided(spy_unet, cond, uncond, 4.0)(x, torch.tensor(7))
    assert found[:, 0, 0, 0].tolist() == [1 + 4 * (3 - 1), 1 + 4 * (5 - 1)]
    assert guided(spy_unet, cond, uncond, 1.0)(x, torch.tensor(7))[:, 0, 0, 0].tolist() == [3, 5]
    assert guided(spy_unet, cond)(x, torch.tensor(7))[:, 0, 0, 0].tolist() == [3, 5]
    assert spy_unet.batches == [4, 2, 2]

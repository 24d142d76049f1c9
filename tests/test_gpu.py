"""What a GPU run must show, skipped without one. `make test-gpu` runs it, prints its figures, and the benchmark.

The reference is the CPU, whose pictures equal diffusers' (test_pipeline.py); at Stable Diffusion's size, diffusers.
"""
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm_edu import DATA
from ldm_edu.autoencoder import Autoencoder, AutoencoderConfig
from ldm_edu.clip import TextConfig, TextTransformer
from ldm_edu.conditioning import TextEncoder
from ldm_edu.losses import latent_loss, noise_loss
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.recipes import summary
from ldm_edu.recipes.profiles import PROFILES, step_of
from ldm_edu.recipes.runner import run_all
from ldm_edu.samplers import SAMPLERS
from ldm_edu.schedule import Schedule, scaled_linear_schedule
from ldm_edu.tiny_worlds.captions import vocabulary
from ldm_edu.tiny_worlds.datasets import TinyWorlds
from ldm_edu.tokenizer import build_tokenizer
from ldm_edu.training import TrainConfig, pick_batch, train
from ldm_edu.unet import TINY, UNet, UNetConfig
from ldm_edu.weights import AUTOENCODER, UNET

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
FOLDER = DATA / "tiny-worlds"
PROMPTS = ["a big red house on the left, at night, on the snow", "two small boats on the water"]
STEPS = 45    # the U-Net meets each condition more than WARM_UP times, and is recorded
GREY = 127.5    # grey levels in one unit of a picture
AT_MOST = {torch.float32: 1.0}                              # largest difference of a pixel, in grey levels
ON_AVERAGE = {torch.float16: 0.5, torch.bfloat16: 4.0}      # mean difference, in grey levels


@pytest.fixture(scope="module", autouse=True)
def exact():
    """Convolutions in float32, which cuDNN otherwise rounds to 10 bits (TF32)."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def models():
    """(on the CPU, on the GPU)"""
    return LatentDiffusion.from_pretrained(FOLDER), LatentDiffusion.from_pretrained(FOLDER, DEVICE)


@pytest.fixture(scope="module")
def example():
    return TinyWorlds("validation", 8)[3]


def tasks(example):
    """Every way to draw a picture, by name."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 8:40] = 1
    image, semantic_map = example.image[None], example.semantic_map[None]
    by_sampler = {f"text, {sampler}": lambda ldm, sampler=sampler: ldm.text_to_image(PROMPTS, 8, sampler=sampler)
                  for sampler in SAMPLERS}
    return by_sampler | {
        "text, another size": lambda ldm: ldm.text_to_image(PROMPTS, 8, size=(64, 96)),
        "a reference image": lambda ldm: ldm.variations(image, 8),
        "a semantic map": lambda ldm: ldm.map_to_image(semantic_map, 8),
        "image to image": lambda ldm: ldm.image_to_image(PROMPTS[0], image, steps=8),
        "inpainting": lambda ldm: ldm.inpaint(PROMPTS[0], image, mask, steps=8, rounds=2)}


def test_every_picture_equals_the_cpus(models, example):
    cpu, gpu = models
    worst = {}
    for name, draw in tasks(example).items():
        found, expected = draw(gpu), draw(cpu)
        assert found.device.type == DEVICE
        worst[name] = GREY * (found.cpu() - expected).abs().max().item()
        print(f"{name:20} at most {worst[name]:.4f} grey levels from the CPU's")
    assert max(worst.values()) < AT_MOST[torch.float32], worst


@pytest.mark.parametrize("dtype", ON_AVERAGE)
def test_half_precision_stays_near(models, example, dtype):
    gpu = LatentDiffusion.from_pretrained(FOLDER, DEVICE, dtype)
    for name, draw in tasks(example).items():
        found = draw(gpu)
        difference = GREY * (found.cpu() - draw(models[0])).abs().mean().item()
        print(f"{name:20} {dtype}: {difference:.2f} grey levels on average from float32")
        assert torch.isfinite(found).all() and difference < ON_AVERAGE[dtype], (name, difference)


def run_training(device: str, precision: str, steps: int, state: Path | None = None, resume: bool = False):
    """(losses, weights) of the shipped U-Net after `steps` of 4 steps of training on fixed latents."""
    unet = LatentDiffusion.from_pretrained(FOLDER, device).unet.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    z, context = torch.randn(8, 4, 8, 8, generator=generator), torch.randn(8, 32, 128, generator=generator)
    schedule = scaled_linear_schedule()

    def loss_fn(model, generator):
        generator = torch.Generator().manual_seed(generator.initial_seed())    # the same draws on every device
        t, eps = torch.randint(1000, (8,), generator=generator), torch.randn(z.shape, generator=generator)
        return {"loss": latent_loss(model, z.to(device), context.to(device), t.to(device), eps.to(device),
                                    schedule).mean()}

    losses = []
    for progress in train(unet, loss_fn, TrainConfig(4, warmup=1, precision=precision, save_every=2), state, resume):
        losses.append(progress.losses["loss"])
        if progress.step == steps:
            break
    return losses, {name: value.detach().cpu() for name, value in unet.state_dict().items()}


def test_training_follows_the_cpu():
    expected, _ = run_training("cpu", "float32", 4)
    for precision, tolerance in {"float32": 5e-3, "bfloat16": 1e-1}.items():    # steps of Adam enlarge what is rounded
        found, _ = run_training(DEVICE, precision, 4)
        print(f"losses, {precision}: {found}; the CPU's in float32: {expected}")
        assert found == pytest.approx(expected, rel=tolerance)


def test_a_resumed_training_ends_like_an_unbroken_one(tmp_path):
    begun = LatentDiffusion.from_pretrained(FOLDER).unet.state_dict()
    _, whole = run_training(DEVICE, "float32", 4)
    run_training(DEVICE, "float32", 2, tmp_path / "state.safetensors")
    _, resumed = run_training(DEVICE, "float32", 4, tmp_path / "state.safetensors", resume=True)
    apart, way = (sum((a[name] - whole[name]).square().sum() for name in whole).sqrt() for a in (resumed, begun))
    print(f"a resumed training ends {apart / way:.2%} of the way from an unbroken one")
    assert 0 < way and apart < 0.05 * way    # not every kernel of a GPU adds in a fixed order, and Adam enlarges that


def test_a_recorded_training_equals_one_that_is_not():
    """Replayed steps draw the same numbers; two ways through the loss function are recorded apart."""
    def weights(recorded: bool):
        torch.manual_seed(0)
        unet = UNet(TINY).to(DEVICE)
        schedule = Schedule(scaled_linear_schedule().betas.to(DEVICE))
        z, context = torch.randn(64, 4, 8, 8, device=DEVICE), torch.randn(64, 32, 128, device=DEVICE)

        def loss_fn(model, generator):
            pick = pick_batch(64, 16, generator)
            scale = 2.0 if loss_fn.branch(generator) else 1.0
            return {"loss": scale * noise_loss(model, z[pick], context[pick], schedule, schedule.sigma, generator)}

        loss_fn.branch = lambda generator: step_of(generator) % 3 == 0
        config = TrainConfig(12, 1e-3, warmup=3, muon=True, recorded=recorded)
        losses = [progress.losses["loss"] for progress in train(unet, loss_fn, config)]
        return losses, [p.detach().cpu() for p in unet.parameters()]

    (losses, expected), (replayed, found) = weights(False), weights(True)
    print(f"losses: {losses}; recorded and replayed: {replayed}")
    assert replayed == pytest.approx(losses, rel=1e-3)
    for a, b in zip(found, expected):    # not every kernel adds in a fixed order
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_every_stage_trains_and_the_model_draws(tmp_path, monkeypatch):
    """A few steps each, as the profile says, of a few scenes; what comes out opens on the CPU."""
    monkeypatch.setattr(summary, "table", lambda *_, **__: [])
    profiles = {name: replace(profile, train=replace(profile.train, steps=STEPS), batch=4, scenes=40)
                for name, profile in PROFILES["gpu"].items()}
    run_all(profiles, tmp_path, device=torch.device(DEVICE))
    print((tmp_path / "training/summary.md").read_text())
    assert LatentDiffusion.from_pretrained(tmp_path / "tiny-worlds").text_to_image("a cat", steps=2).isfinite().all()


@pytest.mark.parametrize("chapter", ["00_tour", "07_text_to_image", "09_stable_diffusion"])
def test_a_chapter_runs(chapter):
    """Those that look for a GPU."""
    root = DATA.parent
    done = subprocess.run([sys.executable, root / "tests/course/plain_cells.py", root / f"notebooks/{chapter}.ipynb"],
                          capture_output=True, text=True, cwd=root)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stderr[-3000:]


@torch.no_grad()
def test_memory_at_the_size_of_stable_diffusion():
    """Peak memory of one picture of 512 x 512 pixels in float16, beside diffusers with the same weights."""
    diffusers = pytest.importorskip("diffusers")
    from reference import reference_autoencoder, reference_text, reference_tokenizer, reference_unet

    tokenizer = build_tokenizer(vocabulary(), length=77)
    with torch.device(DEVICE):
        ours = [UNet(UNetConfig()), Autoencoder(AutoencoderConfig()), TextTransformer(TextConfig())]
    unet, autoencoder, text = (part.half().eval() for part in ours)
    ldm = LatentDiffusion(unet, autoencoder, TextEncoder(tokenizer, text), scaled_linear_schedule())
    peaks = {"ours": peak(lambda: ldm.text_to_image(PROMPTS[0], 4, 7.5))}

    with torch.device("meta"):
        unet = reference_unet(UNetConfig())
        vae = reference_autoencoder(AutoencoderConfig())
    for layout, theirs, mine in ((UNET, unet, ldm.unet), (AUTOENCODER, vae, ldm.autoencoder)):
        theirs.load_state_dict({layout.theirs(name): value for name, value in mine.state_dict().items()}, assign=True)
    text = reference_text(TextConfig()).to(DEVICE, torch.float16)
    del ours, ldm.text
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=reference_tokenizer(tokenizer),
        scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    peaks["diffusers"] = peak(lambda: pipeline(PROMPTS[0], num_inference_steps=4, guidance_scale=7.5))
    print("one picture of 512 x 512 pixels, float16: " +
          ", ".join(f"{side} {bytes_ / 2**30:.2f} GiB" for side, bytes_ in peaks.items()))
    assert peaks["ours"] < 1.1 * peaks["diffusers"], peaks


def peak(draw) -> int:
    """The most bytes of the GPU in use while `draw` runs, weights included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    draw()
    return torch.cuda.max_memory_allocated()

"""The pixel model of chapter 02: its recipe, and that what is shipped draws the pictures of its world."""
import pytest
import torch

from ldm_edu.samplers import ddpm
from ldm_edu.schedule import cosine_schedule, timesteps
from ldm_edu.studies.__main__ import main
from ldm_edu.studies.pixel_unet import PIXELS, STEPS, SmallUNet, little_world, load_pixel_model, pixel_recipe
from ldm_edu.support.files import write_tensors

SCHEDULE = cosine_schedule()
CLOSE = 0.1  # root mean square; two different pictures of the world are at least 0.129 apart


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures():
    return little_world()


def nearest(x, pictures):
    """Distance (B,) to the nearest picture, and which that is (B,)."""
    return (x.clamp(-1, 1)[:, None] - pictures).square().mean((2, 3, 4)).sqrt().min(1)


def samples(model, count=32):
    levels = timesteps(100, spacing="trailing")
    *_, last = ddpm(model, torch.randn(count, 3, 16, 16, generator=seeded(10)), SCHEDULE, levels, generator=seeded(11))
    return last.x


def test_the_world_has_240_different_pictures(pictures):
    assert pictures.shape == (240, 3, 16, 16) and pictures.min() >= -1 and pictures.max() <= 1
    apart = (pictures[:, None] - pictures).square().mean((2, 3, 4)).sqrt() + 9 * torch.eye(240)
    assert apart.min() > 1.2 * CLOSE


def test_the_shipped_model_draws_pictures_of_its_world(pictures):
    """Four in five close to a picture of the world, and hardly two alike: it neither blends nor collapses."""
    x = samples(load_pixel_model())
    apart, which = nearest(x, pictures)
    print(f"{(apart < CLOSE).sum()} of {len(x)} close to {len(which.unique())} pictures, median {apart.median():.3f}")
    assert x.isfinite().all()
    assert (apart < CLOSE).float().mean() >= 0.8
    assert len(which.unique()) > 24    # of 32 drawn from 240 at random, 30 on average


def test_the_bound_tells_pictures_from_blends_and_from_no_training(pictures):
    model, _, _ = pixel_recipe()
    assert nearest(samples(model.eval(), 8), pictures).values.min() > 3 * CLOSE
    world = pictures.view(12, 4, 5, 3, 16, 16)    # sky and ground, thing, colour
    boats_and_cacti = (world[:, 1] + world[:, 3]).flatten(0, 1) / 2
    assert (nearest(boats_and_cacti, pictures).values < CLOSE).float().mean() < 0.1
    faint = pictures + 0.05 * torch.randn(pictures.shape, generator=seeded(0))
    apart, which = nearest(faint, pictures)
    assert (apart < CLOSE).all() and torch.equal(which, torch.arange(240))


def test_the_recipe_is_the_same_every_time():
    before = torch.get_rng_state()
    (a, loss_a, config), (b, loss_b, _) = pixel_recipe(), pixel_recipe(steps=7)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert loss_a(a, seeded(3))["eps"] == loss_b(b, seeded(3))["eps"] != loss_a(a, seeded(4))["eps"]
    assert config.steps == STEPS


def test_the_command_trains_and_saves(tmp_path):
    path = tmp_path / "pixels/model.safetensors"
    main(["pixel_unet", "--steps", "2", "--out", str(path.parent)])
    assert isinstance(load_pixel_model(path), SmallUNet) and path.stat().st_size < 10**6


@pytest.mark.parametrize("size", [(16, 16), (13, 7), (3, 2)])
def test_small_unet(size):
    """Untrained it guesses sqrt(1 - alpha_bar) x, whatever the size; one t serves a batch; skips make a difference."""
    x, t = torch.randn(2, 3, *size, generator=seeded(0)), torch.tensor([0, 700])
    model = SmallUNet(SCHEDULE, channels=(8, 16))
    a = SCHEDULE.alpha_bar[t].view(2, 1, 1, 1)
    torch.testing.assert_close(model(x, t), (1 - a).sqrt() * x)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=seeded(parameter.numel()))
    blind = SmallUNet(SCHEDULE, channels=(8, 16), skips=False)
    blind.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(x, t[1])[1], model(x, t)[1])
        assert model(x, t).shape == x.shape and not torch.allclose(model(x, t), blind(x, t), atol=1e-3)


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_pixel_model(path)
    path.write_bytes(PIXELS.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut short"):
        load_pixel_model(path)
    write_tensors(path, SmallUNet(SCHEDULE, channels=(8, 16)).state_dict())
    with pytest.raises(ValueError, match="model.safetensors holds another network"):
        load_pixel_model(path)

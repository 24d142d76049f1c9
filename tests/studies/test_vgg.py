"""LPIPS over VGG16 against the `lpips` package."""
import warnings

import pytest
import torch
from torchvision.models import VGG16_Weights, vgg16

from ldm_edu.studies.vgg import VGGFeatures, vgg_lpips


def pair(size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, size, size, generator=g) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


@pytest.fixture(scope="module")
def reference():
    """The `lpips` package with its published weights, on a VGG16 of random weights: nothing is downloaded."""
    import lpips
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # about torchvision's argument names
        torch.manual_seed(0)
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()


@pytest.fixture
def hub(reference, tmp_path, monkeypatch):
    """A torch cache that holds the reference's VGG16, under the name that torchvision gives the real one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    layers = {f"features.{i}": layer for part in range(1, 6) for i, layer in
              getattr(reference.net, f"slice{part}").named_children() if isinstance(layer, torch.nn.Conv2d)}
    state = {f"{name}.{kind}": getattr(layer, kind).data for name, layer in layers.items()
             for kind in ("weight", "bias")}
    torch.save(state, folder / VGG16_Weights.IMAGENET1K_V1.url.rsplit("/")[-1])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", (64, 80))
def test_vgg_equals_the_lpips_package(reference, hub, size):
    ours = vgg_lpips()
    x, y = pair(size)
    expected = reference(x, y).flatten()
    assert expected.min() > 1e-3    # random features tell them apart as well
    torch.testing.assert_close(ours(x, y), expected, atol=0, rtol=1e-5)
    x.requires_grad_(True)
    ours_grad, = torch.autograd.grad(ours(x, y).sum(), x)
    expected_grad, = torch.autograd.grad(reference(x, y).sum(), x)
    torch.testing.assert_close(ours_grad, expected_grad, atol=1e-5 * expected_grad.abs().max().item(), rtol=1e-4)


def test_vgg_offline_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(FileNotFoundError, match=r"vgg16-\w+\.pth.*no network.*LPIPS\.tiny\(\), the default"):
        vgg_lpips()


def test_vgg_layers_are_torchvisions():
    torch.manual_seed(0)
    theirs, ours = vgg16(weights=None).features.eval(), VGGFeatures()
    ours.layers.load_state_dict({k: v for k, v in theirs[:30].state_dict().items()})
    x, _ = pair(32)
    expected = theirs[:30]((x - ours.shift) / ours.scale)
    torch.testing.assert_close(ours(x)[-1], expected)

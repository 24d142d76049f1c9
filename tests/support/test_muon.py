"""Muon beside torch's own, which takes plain matrices and multiplies in bfloat16."""
import pytest
import torch
from torch import nn

from ldm_edu.support.muon import Muon, orthogonal


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 36)])
def test_orthogonal_keeps_singular_vectors_and_evens_singular_values(shape):
    x = randn(3, *shape)
    found = orthogonal(x, steps=5)
    for before, after in zip(x, found):
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        turned = u.T @ after @ v.T
        assert (turned - turned.diag().diag()).abs().max() < 1e-3
        assert 0.5 < turned.diag().min() and turned.diag().max() < 1.3
    torch.testing.assert_close(orthogonal(1000 * x), orthogonal(x))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has a Muon of its own from 2.9 on")
@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_a_linear_layer_moves_as_with_torchs_muon(shape):
    ours, theirs = (nn.Linear(*shape, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    start = ours.weight.detach().clone()
    mine = Muon(ours, 1e-2, weight_decay=0.1)
    reference = torch.optim.Muon(theirs.parameters(), 1e-2, weight_decay=0.1, momentum=0.95, nesterov=True, ns_steps=3,
                                 adjust_lr_fn="match_rms_adamw")
    for step in range(6):
        for layer, optimizer in ((ours, mine), (theirs, reference)):
            layer.weight.grad = randn(*layer.weight.shape, seed=step)
            optimizer.step()
    moved, expected = ours.weight - start, theirs.weight - start
    assert (moved - expected).norm() < 0.03 * expected.norm()    # its products are rounded to 8 bits


def test_a_convolution_is_a_matrix_and_all_else_is_adamws():
    """Also with channels last; a layer that sees pixels, biases and embeddings move as with AdamW."""
    def model():
        torch.manual_seed(0)
        return nn.ModuleList([nn.Conv2d(16, 20, 3), nn.Conv2d(3, 16, 3), nn.Linear(16, 16), nn.Embedding(30, 16)])

    mixed, plain, last = model(), model(), model().to(memory_format=torch.channels_last)
    flat = nn.Linear(144, 20, bias=False)
    flat.weight.data = mixed[0].weight.detach().flatten(1).clone()
    optimizers = [Muon(mixed, 1e-2), torch.optim.AdamW(plain.parameters(), 1e-2, weight_decay=1e-2), Muon(last, 1e-2),
                  Muon(flat, 1e-2)]
    for step in range(4):
        for network in (mixed, plain, last):
            for k, p in enumerate(network.parameters()):
                p.grad = torch.empty_like(p).copy_(randn(*p.shape, seed=10 * step + k))
        flat.weight.grad = randn(20, 16, 3, 3, seed=10 * step).flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(mixed[0].weight.flatten(1), flat.weight)
    differing = set()
    for (name, p), q, r in zip(mixed.named_parameters(), plain.parameters(), last.parameters()):
        torch.testing.assert_close(p, r, atol=1e-6, rtol=1e-5)
        if not torch.allclose(p, q, atol=1e-6):
            differing.add(name)
    assert differing == {"0.weight", "2.weight"}


def test_a_matrix_without_gradient_stays():
    layers = nn.ModuleList([nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)])
    before = layers[1].weight.detach().clone()
    layers[0].weight.grad = randn(16, 16)
    Muon(layers, 1e-2).step()
    assert torch.equal(layers[1].weight, before)

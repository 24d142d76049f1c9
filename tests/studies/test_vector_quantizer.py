"""The vector quantizer against a loop over codes, its gradients against the paper's, code use against a count."""
import pytest
import torch

from ldm_edu.studies.vector_quantizer import VectorQuantizer, perplexity


def quantizer(size=7, channels=3, commitment=0.25):
    torch.manual_seed(0)
    module = VectorQuantizer(size, channels, commitment)
    torch.nn.init.normal_(module.codebook)
    return module


def latent(requires_grad=False):
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_(requires_grad)


def test_each_pixel_gets_the_nearest_code():
    module, z = quantizer(), latent()
    codes, _, numbers = module(z)
    assert codes.shape == z.shape and numbers.shape == (2, 4, 5) and len(numbers.unique()) > 3
    for b in range(2):
        for y in range(4):
            for x in range(5):
                distances = [(z[b, :, y, x] - code).square().sum().item() for code in module.codebook]
                assert numbers[b, y, x] == distances.index(min(distances))
                torch.testing.assert_close(codes[b, :, y, x], module.codebook[numbers[b, y, x]].detach())


def test_the_decoders_gradient_passes_straight_through():
    module, z = quantizer(), latent(requires_grad=True)
    codes, _, _ = module(z)
    gradient = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2))
    codes.backward(gradient)
    torch.testing.assert_close(z.grad, gradient)
    assert module.codebook.grad is None    # the decoder's loss does not move the codes


@pytest.mark.parametrize("commitment", [0.25, 2.0])
def test_the_loss_and_its_two_gradients(commitment):
    module, z = quantizer(commitment=commitment), latent(requires_grad=True)
    _, loss, numbers = module(z)
    loss.backward()
    chosen = module.codebook.detach()[numbers].movedim(-1, 1)
    error = z.detach() - chosen
    torch.testing.assert_close(loss, (1 + commitment) * error.square().mean())
    torch.testing.assert_close(z.grad, commitment * 2 * error / error.numel())
    expected = torch.stack([-2 / error.numel() * error.movedim(1, -1)[numbers == k].sum(0) for k in range(7)])
    torch.testing.assert_close(module.codebook.grad, expected)


def test_a_latent_that_is_a_code_stays_and_costs_nothing():
    module = quantizer()
    z = module.codebook.detach()[torch.tensor([[[3, 1], [0, 6]]])].movedim(-1, 1)
    codes, loss, numbers = module(z)
    torch.testing.assert_close(codes, z)
    assert loss == 0 and numbers.tolist() == [[[3, 1], [0, 6]]]


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.zeros(5, 2, 2, dtype=torch.long), 8) == 1
    torch.testing.assert_close(perplexity(torch.arange(8).repeat(3), 8), torch.tensor(8.0))
    torch.testing.assert_close(perplexity(torch.tensor([5, 2, 5, 2]), 8), torch.tensor(2.0))
    shares = torch.tensor([0.75, 0.25])
    torch.testing.assert_close(perplexity(torch.tensor([0, 0, 1, 0]), 8), (-(shares * shares.log()).sum()).exp())

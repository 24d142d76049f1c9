"""What came after the U-Net? Noise or velocity as the target, U-Net or transformer, at the same training compute.

`python -m ldm_edu.studies after_the_unet [--threads 1]` trains four networks from random weights, with three seeds
each, and each differs from the one before in one thing: a U-Net that learns the noise; one whose loss stresses the
times that rectified flow stresses; a U-Net that learns the velocity of rectified flow; and a transformer that does.
Latents, captions, text encoder (frozen), optimizer and judge are the same. To data/dit/table.csv it writes how much of
their prompts they draw, at four looks during the training and then in 2 to 30 steps, and how straight their paths are.
Ten minutes a training on a core; finished ones are not repeated.
"""
from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from .. import DATA
from ..conditioning import guided
from ..dit import DiT, DiTConfig
from ..flow import flow_euler, flow_levels, velocity_from_eps
from ..losses import loss_weights, noise_loss
from ..metrics.caption_accuracy import score
from ..metrics.evaluation import GUIDANCE_SCALE, captions_of
from ..metrics.oracle import Oracle
from ..recipes.train_dit import flow_step, frozen_text, latents_and_captions, pick_pairs
from ..samplers import EpsFn, Step, ddim
from ..schedule import Schedule, scaled_linear_schedule, timesteps
from ..support.commands import natural, new_folder, whole
from ..support.device import pick_device
from ..support.tables import add_missing
from ..tokenizer import load_tokenizer, tokenize
from ..training import TrainConfig, train
from ..unet import UNet, UNetConfig
from ..weights import load_autoencoder
from . import print_row

TABLE = DATA / "dit" / "table.csv"
MODEL = DATA / "tiny-worlds"
SCHEDULE = scaled_linear_schedule()
# Smaller than what we ship, so that a core trains them: at little compute small networks learn more.
SMALL_UNET = UNetConfig(channels=(32, 64), attention=(True, True), heads=4, context_dim=128, groups=16, sample_size=8)
SMALL_DIT = DiTConfig(dim=96, layers=6, heads=3)
ARMS = ("U-Net, noise", "U-Net, noise, flow's times", "U-Net, velocity", "transformer, velocity")
LOOK_STEPS, SWEEP = 16, (2, 4, 8, 16, 30)    # of the sampler: at looks during the training, and after it
LOOKS = (0.25, 0.5, 0.75, 1.0)               # shares of the compute


class Drawn(NamedTuple):
    """A row of the table: what the oracle finds in pictures of validation prompts."""

    arm: str
    seed: int
    latents: int       # seen in training so far
    tflop: float       # spent on them: multiplications and additions, forward and backward
    sampler: str
    guidance: float
    steps: int         # of the sampler
    accuracy: float    # share of the attributes that are right
    all_right: float   # share of the pictures with every attribute right
    length: float      # of the paths from noise to latent, 1 if they are straight; not a number if not measured


class Judge:
    """Validation prompts, the same noise for all, and who reads the pictures."""

    def __init__(self, count: int, device: str):
        text, tokenizer = frozen_text(MODEL, device), load_tokenizer(MODEL / "tokenizer")
        self.captions = captions_of("validation", count)
        texts = [caption.text for caption in self.captions]
        self.cond, self.uncond = (text(tokenize(tokenizer, each).to(device)) for each in (texts, [""] * count))
        self.noise = torch.randn(count, 4, 8, 8, generator=Generator().manual_seed(0)).to(device)
        self.autoencoder = load_autoencoder(MODEL / "vae").eval().to(device)
        self.oracle = Oracle.load().to(device)

    @torch.no_grad()
    def __call__(self, network: nn.Module, sampler: str, guidance: float, steps: int) -> tuple[float, float, float]:
        """Let a network draw; return accuracy, share of all right, and length of the paths."""
        path, predict = [self.noise], guided(network, self.cond, self.uncond, guidance)
        path += [step.x for step in sample(predict, self.noise, sampler, steps)]
        pictures = torch.cat([self.autoencoder.from_latent(z).clamp(-1, 1) for z in path[-1].split(256)])
        found = score(self.captions, self.oracle.read(pictures.cpu()))
        return found.accuracy, found.all_right, path_length(path) if sampler == "flow_euler" else torch.nan


def sample(predict: EpsFn, x: Tensor, sampler: str, steps: int) -> Iterator[Step]:
    """Sample from x with a network of either family; one that predicts noise serves flow_euler, too."""
    if sampler == "ddim":
        return ddim(predict, x, SCHEDULE, timesteps(steps, spacing="trailing"))    # which starts near pure noise
    velocity = predict if predict.predicts == "velocity" else velocity_from_eps(predict, SCHEDULE)
    return flow_euler(velocity, x, flow_levels(steps))


def path_length(path: list[Tensor]) -> float:
    """Measure paths (B, ...) in units of the distance between their ends, on average: 1 if they are straight."""
    walked = sum((b - a).flatten(1).norm(dim=1) for a, b in zip(path, path[1:]))
    return (walked / (path[-1] - path[0]).flatten(1).norm(dim=1)).mean().item()


class FlowUNet(UNet):
    """A U-Net that predicts velocity at a time from 0 to 1."""

    predicts = "velocity"

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """As `DiT`."""
        return super().forward(x, 1000 * t, context)    # one step of its embedding apart, as timesteps are


def build(arm: str) -> UNet | DiT:
    """Build the network of an arm."""
    if "transformer" in arm:
        return DiT(SMALL_DIT)
    return (UNet if "noise" in arm else FlowUNet)(SMALL_UNET).to(memory_format=torch.channels_last)


def flow_weights(schedule: Schedule) -> Tensor:
    """Loss weights over t with which a noise loss is rectified flow's, up to a factor: (T,), of mean 1.

    An error in eps is 1 + sigma times as large in v (exercise 12.2), and `logit_normal` draws log sigma from N(0, 1).
    """
    log_sigma = schedule.sigma.log()
    weight = (-log_sigma.square() / 2).exp() * torch.gradient(log_sigma)[0] * (1 + schedule.sigma) ** 2
    return weight / weight.mean()


def training_flop(arm: str) -> float:
    """Count the FLOP of a latent in training, forward and backward (twice as much), without the text encoder."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):    # it knows no fused one on a CPU
        build(arm)(torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 32, 128))
    return 3 * counter.get_total_flops()


def train_arm(arm: str, seed: int, args: Namespace, judge: Judge) -> tuple[list[Drawn], nn.Module]:
    """Train one arm for the compute of `args.steps` steps of the U-Net, or as many steps if that is more; draw."""
    device, noise, cost, rows = torch.device(args.device), "noise" in arm, training_flop(arm), []
    latents, ids = latents_and_captions(MODEL, args.scenes, device)
    text, schedule = frozen_text(MODEL, device), Schedule(SCHEDULE.betas.to(device))
    weight = flow_weights(schedule) if "flow" in arm else loss_weights(schedule)
    same = args.steps * training_flop(ARMS[0]) / cost    # steps at the compute of the U-Net
    marks = {max(1, round(share * same)) for share in LOOKS} | {args.steps}
    torch.manual_seed(seed)
    network = build(arm).to(device)

    def loss_fn(network: nn.Module, generator: Generator) -> dict[str, Tensor]:
        z_0, context = pick_pairs(latents, ids, text, args.batch, generator)
        if noise:
            return {"loss": noise_loss(network, z_0, context, schedule, weight, generator)}
        return {"loss": flow_step(network, z_0, context, generator)}

    # No cooldown, so that a network may be judged at any step; the average of its weights stands in for it.
    config = TrainConfig(max(marks), lr=4e-3, cooldown=0.0, ema=0.995, muon=True, seed=seed, recorded=True,
                         precision="float32" if device.type == "cpu" else "bfloat16")

    def look(network: nn.Module, step: int, sampler: str, steps: int, guidance: float = GUIDANCE_SCALE) -> None:
        seen = step * args.batch
        rows.append(Drawn(arm, seed, seen, seen * cost / 1e12, sampler, guidance, steps,
                          *judge(network, sampler, guidance, steps)))

    own = "ddim" if noise else "flow_euler"
    for progress in tqdm(train(network, loss_fn, config), f"{arm}, seed {seed}", config.steps, mininterval=5):
        if progress.step in marks:
            look(progress.ema, progress.step, own, LOOK_STEPS)
        if progress.step == max(1, round(same)):    # at the same compute
            for sampler in dict.fromkeys((own, "flow_euler")):
                for steps in SWEEP:
                    if (sampler, steps) != (own, LOOK_STEPS):
                        look(progress.ema, progress.step, sampler, steps)
            look(progress.ema, progress.step, "flow_euler", SWEEP[-1], guidance=1.0)
    return rows, progress.ema


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM",
                        help=f"some of {'; '.join(ARMS)}")
    parser.add_argument("--seeds", nargs="+", type=natural, default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--steps", type=whole, default=1000, help="of training the U-Net, whose compute all may spend")
    parser.add_argument("--batch", type=whole, default=64, help="latents a step")
    parser.add_argument("--scenes", type=whole, default=10_000, help="to train on")
    parser.add_argument("--count", type=whole, default=192, help="prompts to draw at each look")
    parser.add_argument("--out", type=new_folder, default=TABLE.parent, help="folder for the table")
    parser.add_argument("--device", choices=sorted({"cpu", pick_device()}), default=pick_device(), help="to train on")


def run(args: Namespace) -> None:
    """Train what is not in the table yet, seed by seed, and add it."""
    judge, table = Judge(args.count, args.device), args.out / TABLE.name
    for row in add_missing(table, Drawn, args.arms, args.seeds, lambda arm, seed: train_arm(arm, seed, args, judge)[0]):
        print_row(row)

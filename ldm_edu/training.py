"""One training loop for every model: a generator, so progress bars, logs and pictures are the caller's."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .support.checks import expect
from .support.files import read_tensors, write_tensors
from .support.muon import Muon
from .support.recorded import Recorded

LossFn = Callable[[nn.Module, torch.Generator], dict[str, Tensor]]  # scalars by name; their sum is minimised


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train. Raises ValueError for values out of range."""

    steps: int
    lr: float = 1e-3
    warmup: int = 100             # steps from 0 to lr
    cooldown: float = 0.3         # last part of the run, lr falling to 0
    ema: float = 0.999            # decay of the averaged weights, reached gradually
    clip: float = 1.0             # largest gradient norm
    weight_decay: float = 0.0
    muon: bool = False            # the optimizer Muon instead of AdamW: support/muon.py
    seed: int = 0
    precision: str = "float32"    # or "bfloat16", for GPUs: products in half the bits, weights in float32
    recorded: bool = False        # on a CUDA GPU: replay steps without waiting for Python, support/recorded.py
    save_every: int = 250         # steps between checkpoints

    def __post_init__(self):
        expect(self.steps >= 1 and self.save_every >= 1 and self.lr > 0 and 0 <= self.ema < 1, "TrainConfig", self,
               "steps >= 1, save_every >= 1, lr > 0 and 0 <= ema < 1")
        expect(self.precision in ("float32", "bfloat16"), "precision", repr(self.precision), "float32 or bfloat16")


class Progress(NamedTuple):
    """What `train` yields after a step."""

    step: int
    parts: dict[str, Tensor]    # of the loss; still on the device, so that a GPU need not wait for who reads them
    lr: float
    ema: nn.Module              # the averaged model so far

    @property
    def losses(self) -> dict[str, float]:
        """The parts of the loss as numbers."""
        return {name: float(value) for name, value in self.parts.items()}


def pick_batch(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """Draw `batch` random indices below `count`, on the generator's device."""
    return torch.randint(count, (batch,), generator=generator, device=generator.device)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then constant, then linear to zero; step counts from 0."""
    up = min(1.0, (step + 1) / max(1, config.warmup))
    down = min(1.0, (config.steps - step) / max(1.0, config.cooldown * config.steps))
    return config.lr * min(up, down)


def ema_update(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """ema <- d ema + (1 - d) model, in place; d = min(decay, (1 + step) / (10 + step)), so that early weights fade."""
    decay = min(decay, (1 + step) / (10 + step))
    pairs = [(a, b) for a, b in zip(ema.state_dict().values(), model.state_dict().values()) if a.is_floating_point()]
    torch._foreach_lerp_(*map(list, zip(*pairs)), 1 - decay)


def train(model: nn.Module, loss_fn: LossFn, config: TrainConfig, state: Path | None = None,
          resume: bool = False) -> Iterator[Progress]:
    """Minimise the sum of `loss_fn(model, generator)` with AdamW or Muon; yield Progress after every step.

    state: checkpoint file, written every `save_every` steps and at the end; resume: continue from it. Raises
    FileNotFoundError if it is not there, and FloatingPointError for a loss or a gradient that is not finite.
    """
    device = next(model.parameters()).device
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    recorded = config.recorded and device.type == "cuda"
    options = dict(lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True, capturable=recorded)
    optimizer = Muon(model, **options) if config.muon else torch.optim.AdamW(trained, **options)
    start = load_state(state, model, ema, optimizer) if resume else 0
    group, total = optimizer.param_groups[0], torch.zeros((), device=device)
    model.train()

    def make_step(generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            losses = loss_fn(model, generator)
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}, norm

    if recorded:
        group["lr"] = torch.zeros((), device=device)    # a recording reads it from there
        make_step = Recorded(make_step, getattr(loss_fn, "branch", lambda generator: None))
    for step in range(start, config.steps):
        # All randomness of a step comes from its number, so a resumed run ends in the weights of an unbroken one.
        generator = torch.Generator(device).manual_seed(config.seed * 2**32 + step)
        lr, done = learning_rate(step, config), step + 1
        group["lr"] = group["lr"].fill_(lr) if recorded else lr
        losses, norm = make_step(generator)
        losses = {name: value.clone() for name, value in losses.items()}
        total = total + (loss := sum(losses.values())) + norm    # once NaN it stays so
        due = done % config.save_every == 0 or done == config.steps
        if (due or device.type == "cpu") and not torch.isfinite(total):
            raise FloatingPointError(f"loss is {loss.item()}, its gradient's norm {norm.item()} by step {step}; last "
                                     f"good checkpoint: {state if state and Path(state).exists() else 'none'}")
        ema_update(ema, model, config.ema, step)
        if state and due:
            save_state(Path(state), done, model, ema, optimizer)
        yield Progress(done, losses, lr, ema)


def save_state(path: Path, step: int, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write everything that the next step depends on to one safetensors file, atomically."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    write_tensors(path, tensors | {"step": torch.tensor(step)})


def load_state(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Read what `save_state` wrote and return the number of steps done. RuntimeError if the model is another one."""
    tensors = read_tensors(path)
    model.load_state_dict(_part(tensors, "model."))
    ema.load_state_dict(_part(tensors, "ema."))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        i, name = key.split(".", 1)
        like = parameters[int(i)]
        # Fused AdamW reads weights and moments from end to end: both must lie alike, for example channels last.
        slots.setdefault(int(i), {})[name] = torch.empty_like(like if value.shape == like.shape else value).copy_(value)
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


def load_ema(path: Path, model: nn.Module) -> nn.Module:
    """Put the averaged weights of a checkpoint into `model`, and return it in eval mode."""
    model.load_state_dict(_part(read_tensors(path), "ema."))
    return model.eval()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

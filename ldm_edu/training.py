"""One training loop for every model of the series: a generator; progress bars, logs and pictures are the caller's.

All randomness of step k comes from a generator seeded with (seed, k). A run that was killed and resumed
therefore sees the same batches and the same noise as an unbroken one, and ends in the same weights.

Under `torchrun` every process draws its own batches and all step together, with the average of their gradients.
Other batches then: a run is the same again only with the same number of processes.
"""
from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from .files import read_tensors, write_tensors

PRECISIONS = ("float32", "medium", "bfloat16")    # see `arithmetic`
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
    seed: int = 0
    precision: str = "float32"    # or "medium" or "bfloat16": see `arithmetic`; weights stay float32
    save_every: int = 250         # steps between checkpoints

    def __post_init__(self):
        if self.steps < 1 or self.save_every < 1 or not self.lr > 0 or not 0 <= self.ema < 1:
            raise ValueError(f"expected steps >= 1, save_every >= 1, lr > 0 and 0 <= ema < 1, got {self}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: expected one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Profile:
    """What differs between a laptop and a GPU: `scenes` rendered once, `batch` of them a step."""

    train: TrainConfig
    batch: int
    scenes: int


def pick_batch(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """`batch` random indices below `count`."""
    return torch.randint(count, (batch,), generator=generator)


class Progress(NamedTuple):
    """What `train` yields after a step: losses by name, and the averaged model so far."""

    step: int
    losses: dict[str, float]
    lr: float
    ema: nn.Module


@contextmanager
def arithmetic(precision: str, device: str = "cpu") -> Iterator[None]:
    """How products of matrices are computed, forward and backward, while the context is open. device: "cpu" or "cuda".

    "medium" hands them to oneDNN, which may round what is multiplied to bfloat16, or does not and is fast all the same:
    on AMD's AVX-512 as exactly and faster than the library that torch takes by default (`bench --train` compares).
    "bfloat16" is autocast: activations are rounded too, which pays on GPUs, and on CPUs that have AMX.
    On a CPU attention is then made of such products too: torch's fused kernel is several times slower beside them.
    """
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        if precision == "medium":
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("medium")
        if precision != "float32" and device == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then constant, then linear to zero. Step counts from 0.

    The middle does not depend on `steps`: a run that is in it can be prolonged.
    """
    up = min(1.0, (step + 1) / max(1, config.warmup))
    down = min(1.0, (config.steps - step) / max(1.0, config.cooldown * config.steps))
    return config.lr * min(up, down)


def ema_update(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """ema <- d ema + (1 - d) model, in place.

    d = min(decay, (1 + step) / (10 + step)), so that early weights fade.
    """
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for average, value in zip(ema.state_dict().values(), model.state_dict().values()):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def laid_out_as(like: Tensor, value: Tensor) -> Tensor:
    """A copy of `value` in memory as `like` is, channels last for instance: fused AdamW reads both from end to end.

    Gradients and moments in another order than their weights would go to the wrong ones, without an error.
    """
    return torch.empty_like(like).copy_(value)


def save_state(path: Path, step: int, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Everything that the next step depends on, in one safetensors file, written atomically."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    write_tensors(path, tensors | {"step": torch.tensor(step)})


def load_state(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The inverse of `save_state`; returns the number of steps done. Strict: a changed model is a RuntimeError."""
    tensors = read_tensors(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    ema.load_state_dict(part("ema."))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        slots.setdefault(int(index), {})[name] = laid_out_as(like, value) if value.shape == like.shape else value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


def load_ema(path: Path, model: nn.Module) -> nn.Module:
    """Put the averaged weights of a checkpoint into `model`, to be used or saved; returns it in eval mode."""
    tensors = read_tensors(path)
    model.load_state_dict({k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")})
    return model.eval()


def processes() -> tuple[int, int]:
    """This process's rank, and how many train together: (0, 1) outside of `torchrun`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
    """Replace the gradients by their mean over the processes, in place; returns the mean loss."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([loss.detach().view(1), *(grad.flatten() for grad in grads)])    # one message, not hundreds
    dist.all_reduce(flat)
    loss, *parts = (flat / dist.get_world_size()).split([1, *(p.numel() for p in parameters)])
    for p, part in zip(parameters, parts):
        p.grad = laid_out_as(p, part.view(p.shape))
    return loss[0]


def train(model: nn.Module, loss_fn: LossFn, config: TrainConfig, state: Path | None = None,
          resume: bool = False) -> Iterator[Progress]:
    """Minimise the sum of `loss_fn(model, generator)` with AdamW, yielding Progress after every step.

    The generator lives on the CPU. `state` is the checkpoint file, written every `save_every` steps
    and at the end; with `resume` the run continues from it. With several processes the first one
    writes it, and the batch is what all of them draw together. Raises FileNotFoundError if there is
    nothing to resume from, and FloatingPointError at the first loss that is not finite, the last
    good checkpoint untouched.
    """
    rank, size = processes()
    device = next(model.parameters()).device
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay,
                                  fused=True)
    start = load_state(state, model, ema, optimizer) if resume else 0
    model.train()
    for step in range(start, config.steps):
        generator = torch.Generator().manual_seed((config.seed * 2**32 + step) * size + rank)
        optimizer.zero_grad(set_to_none=True)
        with arithmetic(config.precision, device.type):
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                losses = loss_fn(model, generator)
            loss = sum(losses.values())
            loss.backward()
        if size > 1:
            loss = average_gradients(trained, loss)
        if not torch.isfinite(loss):
            kept = state if state and Path(state).exists() else "none"
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; last good checkpoint: {kept}")
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        lr = optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.step()
        ema_update(ema, model, config.ema, step)
        done = step + 1
        if state and rank == 0 and (done % config.save_every == 0 or done == config.steps):
            save_state(Path(state), done, model, ema, optimizer)
        yield Progress(done, {name: float(value.detach()) for name, value in losses.items()}, lr, ema)


def logged(steps: Iterator[Progress], log: Path, name: str, total: int) -> Iterator[Progress]:
    """Pass on what `train` yields, with a progress bar (loss, time left) and one row a step in the CSV file `log`.

    Rows of steps that are now done again, after a run was killed, are replaced.
    """
    bar = rows = None
    with ExitStack() as stack:
        for progress in steps:
            if bar is None:
                kept = [row for row in _read_log(log) if int(row["step"]) < progress.step]
                rows = csv.DictWriter(stack.enter_context(open(log, "w", newline="")),
                                      ["step", "lr", *progress.losses])
                rows.writeheader()
                rows.writerows(kept)
                bar = stack.enter_context(tqdm(total=total, initial=progress.step - 1, desc=name, unit="step"))
            losses = {part: f"{value:.6g}" for part, value in progress.losses.items()}
            rows.writerow({"step": progress.step, "lr": f"{progress.lr:.3g}", **losses})
            bar.set_postfix(loss=f"{sum(progress.losses.values()):.4f}", refresh=False)
            bar.update()
            yield progress


def _read_log(log: Path) -> list[dict[str, str]]:
    if not log.exists():
        return []
    with open(log, newline="") as file:
        return list(csv.DictReader(file))


def draw_losses(log: Path) -> None:
    """Draw loss.png beside a CSV log: each part of the loss, averaged over 1 % of the run."""
    rows = _read_log(log)
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    width = max(1, len(rows) // 100)
    for name in [name for name in rows[0] if name not in ("step", "lr")]:
        values = torch.tensor([float(row[name]) for row in rows])
        values = values[:len(values) // width * width].view(-1, width).mean(1)
        axes.plot([width * (i + 1) for i in range(len(values))], values, label=name)
    axes.set(title=f"{log.parent.name}: training loss", xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(log.with_name("loss.png"), dpi=80)

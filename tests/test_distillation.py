"""Distillation: its step and paths against diffusers, its losses against loops; its LoRA, at the doors."""
import copy
import json

import pytest
import torch
from diffusers import DDIMScheduler
from reference import PROMPTS, SD, draw_theirs, error, latents, open_theirs, pair
from torch import Tensor, nn

from ldm_edu.distillation import ddim_step, guidance_loss, landing_loss, teacher_path
from ldm_edu.lora import add_lora, fingerprint, load_lora, merge_lora, remove_lora, save_lora
from ldm_edu.pipeline import LatentDiffusion
from ldm_edu.samplers import ddim, last_x
from ldm_edu.schedule import scaled_linear_schedule, timesteps
from ldm_edu.support.files import metadata_of, read_tensors, write_tensors

SCHEDULE = scaled_linear_schedule()
SHAPE = (3, 4, 2, 2)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """A teacher whose paths bend: data of variance 1/4, and a wave."""
    a = SCHEDULE.alpha_bar[int(t)]
    return (1 - a).sqrt() * x / (1 - 3 / 4 * a) + 0.1 * torch.sin(3 * x + int(t) / 100)


def theirs(steps: int) -> DDIMScheduler:
    scheduler = DDIMScheduler(**SD, set_alpha_to_one=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


class Table(nn.Module):
    """A student that knows by heart what to answer: (B, 4, 2, 2) for each t, times a weight that learns."""

    def __init__(self, answers: dict[int, Tensor]):
        super().__init__()
        self.answers, self.weight = answers, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        rows = context[:, 0, 0].long()    # which path it is about
        return self.weight * torch.stack([self.answers[int(level)][row] for level, row in zip(t.expand(len(x)), rows)])


def exact_answers(path: Tensor, steps: int) -> dict[int, Tensor]:
    """The one eps with which a step of DDIM leads from each state to the next, in double precision."""
    levels, stride, answers = timesteps(steps, spacing="trailing").tolist(), (path.shape[1] - 1) // steps, {}
    ends = [*SCHEDULE.alpha_bar.double()[levels], SCHEDULE.alpha_bar.double()[0]]
    for k, t in enumerate(levels):
        a, b, x, goal = ends[k], ends[k + 1], path[:, k * stride].double(), path[:, (k + 1) * stride].double()
        c = (1 - b).sqrt() - (b / a * (1 - a)).sqrt()
        answers[t] = ((goal - (b / a).sqrt() * x) / c).float()
    return answers


@pytest.fixture(scope="module")
def path() -> Tensor:
    return teacher_path(wavy, draw(*SHAPE), SCHEDULE, steps=40)    # diffusers steps evenly only if they divide 1000


def numbers(count: int) -> Tensor:
    """Contexts (B, 1, 1) that name the paths."""
    return torch.arange(count).view(-1, 1, 1).float()


# ---- A step, and a path ----

def test_a_step_is_diffusers_step():
    """Each of eight, from a batch at different levels at once; 2e-5 of the root mean square."""
    scheduler = theirs(8)
    ends = torch.cat([SCHEDULE.alpha_bar[timesteps(8, spacing="trailing")], SCHEDULE.alpha_bar[:1]])
    x, eps = draw(8, 4, 2, 2), draw(8, 4, 2, 2, seed=1)
    expected = [scheduler.step(e, int(t), each).prev_sample for each, e, t in zip(x, eps, scheduler.timesteps)]
    assert error(ddim_step(x, eps, ends[:-1], ends[1:]), torch.stack(expected)) < 2e-5


@pytest.mark.parametrize("students", [1, 2, 4, 8])
def test_a_path_holds_diffusers_states_at_the_levels_of_every_student(path, students):
    scheduler, x, states = theirs(40), draw(*SHAPE), {}
    for t in scheduler.timesteps:
        states[int(t)] = x
        x = scheduler.step(wavy(x, t), int(t), x).prev_sample
    visited = theirs(students).timesteps.tolist()
    assert visited == timesteps(students, spacing="trailing").tolist() and path.shape == (3, 9, 4, 2, 2)
    for k, t in enumerate(visited):
        assert error(path[:, k * 8 // students], states[t]) < 1e-4
    assert error(path[:, -1], x) < 1e-4


# ---- The losses ----

@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_who_lands_where_the_teacher_went_has_no_loss_and_draws_the_same(path, steps):
    """The student's one step between two levels, and its whole way from the noise with the sampler."""
    student, levels = Table(exact_answers(path, steps)), timesteps(steps, spacing="trailing")
    rows = torch.arange(3).repeat(40)
    loss = landing_loss(student, path[rows], numbers(3)[rows], SCHEDULE, levels, torch.Generator().manual_seed(0))
    assert loss < 1e-8
    with torch.no_grad():
        drawn = last_x(ddim(lambda x, t: student(x, t, numbers(3)), path[:, 0], SCHEDULE, levels))
    assert error(drawn, path[:, -1]) < 1e-4


def test_the_loss_weighs_an_error_in_eps_by_how_far_it_leads(path):
    """c² |eps - eps*|², averaged over the steps, with c from the two levels; 12,000 draws of the step, within 3 %."""
    answers, off = exact_answers(path, 4), draw(*SHAPE, seed=2)
    student, levels = Table({t: eps + off for t, eps in answers.items()}), timesteps(4, spacing="trailing")
    rows = torch.arange(3).repeat(4000)
    found = landing_loss(student, path[rows], numbers(3)[rows], SCHEDULE, levels, torch.Generator().manual_seed(0))
    ends = [*SCHEDULE.alpha_bar[levels].tolist(), SCHEDULE.alpha_bar[0].item()]
    squares = [((1 - b) ** 0.5 - (b / a * (1 - a)) ** 0.5) ** 2 for a, b in zip(ends, ends[1:])]
    assert found.item() == pytest.approx(sum(squares) / 4 * off.square().mean().item(), rel=0.03)
    found.backward()
    assert student.weight.grad.abs() > 0.1


def test_the_guided_prediction_is_learned_and_the_teacher_stays():
    """Against a loop over the batch with formula 6 of Ho & Salimans; the gradient reaches the student alone."""
    class Net(nn.Module):
        def __init__(self, slope: float):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(slope))

        def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
            return torch.tanh(self.slope * z) + context.mean((1, 2)).view(-1, 1, 1, 1) * t.view(-1, 1, 1, 1) / 1000

    teacher, student, z, cond = Net(0.5), Net(0.8), draw(6, 4, 2, 2), draw(6, 5, 8, seed=1)
    uncond, weight = draw(1, 5, 8, seed=2).expand(6, -1, -1), torch.linspace(0.5, 2, 1000)
    seen = []
    student.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
    loss = guidance_loss(student, teacher, z, cond, uncond, 4.0, SCHEDULE, weight, torch.Generator().manual_seed(3))
    loss.backward()
    (z_t, t, given), = seen
    assert torch.equal(given, cond) and len(set(t.tolist())) == 6
    expected = 0.0
    for i in range(6):
        one = [part[i:i + 1] for part in (z_t, t, cond, uncond)]
        with torch.no_grad():
            told, untold = (teacher(*one[:2], context) for context in one[2:])
            goal = (1 + 3.0) * told - 3.0 * untold
            expected += weight[t[i]] * (student(*one[:3]) - goal).square().mean() / 6
    torch.testing.assert_close(loss, expected)
    assert student.slope.grad.abs() > 0 and teacher.slope.grad is None
    ends = SCHEDULE.alpha_bar[t].view(-1, 1, 1, 1)
    eps = (z_t - ends.sqrt() * z) / (1 - ends).sqrt()
    assert abs(eps.std() - 1) < 0.3    # noise of unit variance, each at its own level


# ---- A distilled LoRA ----

def distilled(seed: int = 0) -> LatentDiffusion:
    """The little random model with a random LoRA on every layer, marked as distilled."""
    ldm = copy.deepcopy(pair("tiny")[1])
    torch.manual_seed(seed)
    add_lora(ldm.unet, 3, everywhere=True)
    for name, value in ldm.unet.named_parameters():
        if name.endswith(".B"):
            nn.init.normal_(value, std=0.02)
    ldm.unet.distilled = True
    return ldm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the file of such a LoRA, as the recipe writes it."""
    folder = tmp_path_factory.mktemp("few-steps")
    save_lora(distilled(), folder / "pytorch_lora_weights.safetensors", torch.float16)
    return folder


def test_it_covers_every_linear_layer_and_small_convolution(folder):
    tensors = read_tensors(folder / "pytorch_lora_weights.safetensors")
    names = {name.split(".lora_")[0] for name in tensors}
    kinds = {name.rsplit(".", 1)[1] for name in names}
    assert {"conv_shortcut", "proj_in", "proj_out", "linear_1", "time_emb_proj", "to_q", "2"} <= kinds
    theirs = pair("tiny")[0].unet
    fitting = {f"unet.{name}": layer for name, layer in theirs.named_modules() if isinstance(layer, nn.Linear)
               or isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)}
    assert names == fitting.keys()
    for name, tensor in tensors.items():    # PEFT has a convolution for that of a convolution
        assert tensor.ndim == fitting[name.split(".lora_")[0]].weight.ndim
    attention = copy.deepcopy(pair("tiny")[1]).unet
    assert 0 < len(add_lora(attention, 3)) < 2 * len(names)    # as before, attention alone


def test_it_draws_in_four_steps_without_being_told_how(folder):
    """By default: no guidance, levels that start at T - 1. After remove_lora everything is as it was."""
    plain, ldm = pair("tiny")[1], copy.deepcopy(pair("tiny")[1])
    before = latents(ldm, PROMPTS, 4)
    load_lora(ldm, folder)
    calls = []
    hook = ldm.unet.register_forward_hook(lambda _, inputs, __: calls.append((len(inputs[0]), int(inputs[1]))))
    drawn = ldm.text_to_image(PROMPTS, steps=4)
    hook.remove()
    assert calls == [(2, 999), (2, 749), (2, 499), (2, 249)] and ldm.distilled
    expected = distilled()
    expected.unet.distilled = False
    for name, value in expected.unet.named_parameters():
        value.data = value.half().float() if name.endswith((".A", ".B")) else value.data    # as on disk
    assert error(drawn, expected.text_to_image(PROMPTS, 4, 1.0, spacing="trailing")) < 1e-3
    for method, given in ((ldm.image_to_image, (PROMPTS, drawn)), (ldm.inpaint, (PROMPTS, drawn, torch.ones(64, 64)))):
        assert method(*given, steps=2).isfinite().all()
        with pytest.raises(ValueError, match="guidance_scale: got 3, expected 1"):
            method(*given, steps=2, guidance_scale=3)
    remove_lora(ldm.unet)
    assert not ldm.distilled and torch.equal(latents(ldm, PROMPTS, 4), before)
    assert not plain.distilled


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_guidance_on_top_is_refused_in_a_sentence(folder, scale):
    ldm = copy.deepcopy(pair("tiny")[1])
    load_lora(ldm, folder)
    with pytest.raises(ValueError, match=f"^guidance_scale: got {scale:g}, expected 1: this model was distilled, and"):
        ldm.text_to_image("two small boats.", steps=4, guidance_scale=scale)
    with pytest.raises(ValueError, match="^negative_prompt: got 'rain', expected none: this model was distilled, and"):
        ldm.text_to_image("two small boats.", steps=4, negative_prompt="rain")
    merge_lora(ldm.unet)    # merged for good it is no less distilled
    with pytest.raises(ValueError, match="this model was distilled"):
        ldm.text_to_image("two small boats.", steps=4, guidance_scale=scale)
    assert ldm.text_to_image("two small boats.", steps=1, guidance_scale=0).isfinite().all()


def test_another_base_is_refused_in_a_sentence_and_nothing_changes(folder):
    ldm = copy.deepcopy(pair("tiny")[1])
    with torch.no_grad():
        for value in ldm.unet.parameters():
            value.add_(0.1 * value.std() * draw(*value.shape)) if value.numel() > 1 else None
    before = copy.deepcopy(ldm.unet.state_dict())
    with pytest.raises(ValueError, match="path: got .*, a LoRA that was distilled from another model, expected one"):
        load_lora(ldm, folder)
    assert not ldm.distilled and before.keys() == ldm.unet.state_dict().keys()
    plain = folder.parent / "plain.safetensors"    # who takes the note out may try
    write_tensors(plain, read_tensors(folder / "pytorch_lora_weights.safetensors"))
    load_lora(ldm, plain)
    assert not ldm.distilled


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_base_is_known_in_half_precision_and_under_another_lora(folder, dtype):
    ldm = copy.deepcopy(pair("tiny")[1]).to(dtype=dtype)
    add_lora(ldm.unet, 2)
    load_lora(ldm, folder)
    assert ldm.distilled
    with pytest.raises(ValueError, match="ldm: got a model that is distilled already"):
        load_lora(ldm, folder)


def test_a_merged_model_stays_distilled_on_disk_and_opens_in_diffusers(tmp_path):
    ldm = distilled()
    merge_lora(ldm.unet)
    assert remove_lora(ldm.unet).distilled    # there is none left to remove
    ldm.save_pretrained(tmp_path / "merged", dtype=torch.float32)
    again = LatentDiffusion.from_pretrained(tmp_path / "merged")
    assert again.distilled and error(latents(again, PROMPTS, 4), latents(ldm, PROMPTS, 4)) < 1e-3
    with pytest.raises(ValueError, match="this model was distilled"):
        latents(again, PROMPTS, 4, guidance_scale=4.0)
    open_theirs(tmp_path / "merged")
    pair("tiny")[1].save_pretrained(tmp_path / "plain")
    assert not LatentDiffusion.from_pretrained(tmp_path / "plain").distilled


def test_only_the_lora_of_a_distilled_model_is_marked(folder, tmp_path):
    ldm = distilled()
    ldm.unet.distilled = False
    save_lora(ldm, tmp_path / "plain.safetensors")
    assert metadata_of(tmp_path / "plain.safetensors") == {"format": "pt"}
    note = metadata_of(folder / "pytorch_lora_weights.safetensors")
    assert note.keys() == {"format", "ldm_edu"}
    assert json.loads(note["ldm_edu"])["made_for"] == fingerprint(pair("tiny")[1].unet)


def test_diffusers_draws_the_same_with_the_sums_of_the_file(folder, tmp_path):
    """W + B A in its own U-Net, under its own names; trailing, without guidance. 1e-3 of the root mean square."""
    ldm = copy.deepcopy(pair("tiny")[1])
    ldm.save_pretrained(tmp_path, torch.float32)
    pipe = open_theirs(tmp_path)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    tensors = read_tensors(folder / "pytorch_lora_weights.safetensors")
    for name in [name for name in tensors if ".lora_A." in name]:
        layer = pipe.unet.get_submodule(name.removeprefix("unet.").removesuffix(".lora_A.weight"))
        A, B = (tensors[name.replace("lora_A", part)].float().flatten(1) for part in ("lora_A", "lora_B"))
        layer.weight.data += (B @ A).view_as(layer.weight)
    load_lora(ldm, folder)
    found = draw_theirs(pipe, PROMPTS, 4, 1.0, output="latent")
    assert error(latents(ldm, PROMPTS, 4, seed=5), found) < 1e-3


def test_diffusers_opens_the_file(folder, tmp_path):
    pytest.importorskip("peft", reason="diffusers reads a LoRA only where peft is installed")
    ldm = copy.deepcopy(pair("tiny")[1])
    ldm.save_pretrained(tmp_path, torch.float32)
    pipe = open_theirs(tmp_path)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.load_lora_weights(folder)
    load_lora(ldm, folder)
    assert error(latents(ldm, PROMPTS, 4, seed=5), draw_theirs(pipe, PROMPTS, 4, 1.0, output="latent")) < 1e-3

"""Which of diffusers' scheduler settings our samplers follow, and what is said about the others."""
from __future__ import annotations

import math
import warnings

from .checks import expect

SCHEDULERS = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler",
              "dpm_solver": "DPMSolverMultistepScheduler"}
# Settings of diffusers' schedulers: those that our samplers follow, one value each ...
OUTPUT = {"prediction_type": "epsilon", "thresholding": False, "rescale_betas_zero_snr": False}
_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False,
           "final_sigmas_type": "zero"}
_STEPS = {
    "ddim": {"set_alpha_to_one": False},
    "ddpm": {"variance_type": "fixed_small"},
    "euler": {**_SIGMAS, "interpolation_type": "linear", "sigma_min": None, "sigma_max": None,
              "timestep_type": "discrete"},
    "dpm_solver": {**_SIGMAS, "algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint",
                   "lower_order_final": True, "euler_at_final": False, "use_lu_lambdas": False,
                   "use_flow_sigmas": False, "lambda_min_clipped": -math.inf, "variance_type": None,
                   "use_dynamic_shifting": False}}
# ... and those of which we follow every value, or which do nothing where the others are as above.
_FREE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "timestep_spacing",
         "steps_offset", "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value",
         "flow_shift", "time_shift_type", "skip_prk_steps")
# Another way from the same prediction to the same picture: ddim takes their place.
_REPLACED = ("PNDM", "LMSDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete",
             "DPMSolverSinglestep", "DPMSolverSDE", "DEISMultistep", "UniPCMultistep", "SASolver", "LCM", "TCD")


def sampler_from_config(config: dict) -> tuple[str, str | None]:
    """Name the sampler and the spacing that step as a scheduler config says, with a warning about any difference.

    Raises ValueError for a scheduler of other models, such as those of flow matching.
    """
    kind = config.get("_class_name", "DDIMScheduler")
    sampler = next((name for name, theirs in SCHEDULERS.items() if theirs == kind), None)
    if sampler is None:
        expect(kind.removesuffix("Scheduler") in _REPLACED, "scheduler", kind,
               f"one of {', '.join(SCHEDULERS.values())}")
        warnings.warn(f"scheduler: {kind} is not among our samplers; ddim is used", stacklevel=2)
        return "ddim", None
    own = own_spacing(sampler)
    spacing, offset = config.get("timestep_spacing", own), config.get("steps_offset", 1)
    if offset != 1 or config.get("clip_sample"):
        warnings.warn("scheduler: steps_offset is taken as 1 and clip_sample as false, as diffusers does with Stable "
                      f"Diffusion; the folder says {offset} and {config.get('clip_sample', False)}", stacklevel=2)
    known = OUTPUT | _STEPS[sampler]
    wrong = [f"{name} = {value!r}" for name, value in config.items() if not name.startswith("_") and (
        value != known[name] if name in known else value and name not in _FREE)]    # unknown, and not off
    if sampler == "ddim" and spacing == "linspace":
        wrong.append("timestep_spacing = 'linspace'")    # it steps by T // steps, past the level that it visits next
    if wrong:
        warnings.warn(f"scheduler: {kind} with {', '.join(wrong)} is not followed; {sampler} steps as by default",
                      stacklevel=2)
    return sampler, None if spacing == own else spacing


def own_spacing(sampler: str) -> str:
    """Name the timestep_spacing that a sampler has by default."""
    return "leading" if sampler in ("ddim", "ddpm") else "linspace"

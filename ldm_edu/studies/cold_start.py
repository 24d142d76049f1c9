"""What a student waits for after restarting a kernel: `studies bench` runs this in fresh processes, for both sides.

`python -m ldm_edu.studies.cold_start ours|theirs FOLDER DEVICE PICTURES` prints the seconds of WAITS and the peak
memory in bytes, separated by blanks.
"""
import sys
import time
from pathlib import Path

WAITS = ("import torch", "import the library, after torch", "open the model", "draw the first picture, 4 steps")
PROMPT = "a big red house on the left and a small green boat, at night, on the snow"


def main(side: str, folder: str, device: str, pictures: str) -> None:
    """Do it once. All imports are here, where they are timed."""
    moments, prompts = [time.perf_counter()], [PROMPT] * int(pictures)

    def mark() -> None:
        moments.append(time.perf_counter())

    import torch
    mark()
    if side == "ours":
        from ..pipeline import LatentDiffusion
        mark()
        model = LatentDiffusion.from_pretrained(folder, device)
        mark()
        model.text_to_image(prompts, steps=4)
    else:
        from diffusers import StableDiffusionPipeline
        mark()
        model = StableDiffusionPipeline.from_pretrained(folder).to(device)
        mark()
        model(prompts, num_inference_steps=4, guidance_scale=4.0, generator=torch.Generator().manual_seed(0))
    mark()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory()
    print(*(end - start for start, end in zip(moments, moments[1:])), peak)


def peak_memory() -> int:
    """Return the most bytes that this process has held, libraries included."""
    if sys.platform == "linux":    # whose getrusage counts what the parent held when it forked
        return 1024 * int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0])
    import resource  # which Windows lacks
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])

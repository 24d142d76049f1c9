"""What a student waits for after restarting a kernel: `studies bench` runs this in fresh processes, for both sides.

`python -m ldm_edu.studies.cold_start ours|theirs FOLDER DEVICE` prints the seconds of WAITS, separated by blanks.
"""
import sys
import time

WAITS = ("import torch", "import the library, after torch", "open the model", "draw the first picture, 4 steps")
PROMPT = "a red boat"


def main(side: str, folder: str, device: str) -> None:
    """Do it once. All imports are here, where they are timed."""
    moments = [time.perf_counter()]

    def mark() -> None:
        moments.append(time.perf_counter())

    import torch
    mark()
    if side == "ours":
        from ..pipeline import LatentDiffusion
        mark()
        model = LatentDiffusion.from_pretrained(folder, device)
        mark()
        model.text_to_image(PROMPT, steps=4)
    else:
        from diffusers import StableDiffusionPipeline
        mark()
        model = StableDiffusionPipeline.from_pretrained(folder).to(device)
        mark()
        model(PROMPT, num_inference_steps=4, guidance_scale=4.0, generator=torch.Generator().manual_seed(0))
    mark()
    print(*(end - start for start, end in zip(moments, moments[1:])))


if __name__ == "__main__":
    main(*sys.argv[1:])

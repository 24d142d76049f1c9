"""How far a prompt travels: the functions of the package that one prompt with one step passes, and changes of file."""
import sys

import torch

from ldm_edu import DATA
from ldm_edu.pipeline import LatentDiffusion

MAX_FUNCTIONS, MAX_CHANGES = 40, 40


def path_of_a_prompt(ldm: LatentDiffusion) -> list[tuple[str, str]]:
    """(file, function) of every call in the package, comprehensions and lambdas left out, in order."""
    root, calls = str(DATA.parent / "ldm_edu"), []

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root) and "<" not in code.co_name:
            calls.append((code.co_filename, code.co_qualname))

    sys.setprofile(note)
    try:
        ldm.text_to_image("a red boat", steps=1)
    finally:
        sys.setprofile(None)
    return calls


def test_a_prompt_passes_few_functions_and_changes_file_rarely():
    torch.set_num_threads(1)
    calls = path_of_a_prompt(LatentDiffusion.from_pretrained(DATA / "tiny-worlds"))
    functions, changes = len(set(calls)), sum(a != b for (a, _), (b, _) in zip(calls, calls[1:]))
    print(f"\none prompt, one step: {functions} functions, {changes} changes of file, {len(calls)} calls")
    assert functions <= MAX_FUNCTIONS and changes <= MAX_CHANGES


if __name__ == "__main__":
    test_a_prompt_passes_few_functions_and_changes_file_rarely()

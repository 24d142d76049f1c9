"""What is wrong with a model or a training run, and what to do: `python -m ldm_edu.doctor FOLDER`."""

"""How good is a model? Oracle, segmenter, caption accuracy, distances; `python -m ldm_edu.metrics FOLDER`."""

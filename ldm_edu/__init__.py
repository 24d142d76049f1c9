"""Latent diffusion from scratch: the package that the notebooks import."""
from pathlib import Path

__version__ = "0.1.0"
DATA = Path(__file__).resolve().parent.parent / "data"  # checkpoints, samples, claims

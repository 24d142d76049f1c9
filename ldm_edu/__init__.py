"""Latent diffusion from scratch: the package that the notebooks import."""
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")    # read when torch is imported: threads that spin while they
os.environ.setdefault("GOMP_SPINCOUNT", "0")           # wait make it 50 times slower beside another busy program

__version__ = "0.1.0"
DATA = Path(__file__).resolve().parent.parent / "data"    # checkpoints, samples, recorded measurements

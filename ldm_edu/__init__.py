"""Latent diffusion from scratch: the same few hundred lines run Tiny Worlds and Stable Diffusion v1."""

__version__ = "0.1.0"

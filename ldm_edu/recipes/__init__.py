"""How every shipped network is trained, one file a network: `python -m ldm_edu.recipes NAME`."""

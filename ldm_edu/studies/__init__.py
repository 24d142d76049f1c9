"""The measurements that the chapters show, recorded in data/: `python -m ldm_edu.studies NAME`."""

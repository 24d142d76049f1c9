"""Tiny Worlds: scenes from one integer seed, drawn, captioned and mapped; and your own pictures as a data set."""

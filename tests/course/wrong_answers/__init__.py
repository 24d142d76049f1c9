"""Wrong answers to the exercises, one module for each chapter: `WRONG`, id -> [(answer, part of its hint)].

Written as students would write them, independently of the package's `mistakes`.
"""

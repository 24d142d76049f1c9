"""Wrong answers to the exercises, one module a chapter: `WRONG`, id -> [(answer, part of the hint it must get)].

Written as students would, not copied from the package's `mistakes`, to which they are held up.
"""

"""Random damage to a file's content, and the profiles of hypothesis.

HYPOTHESIS_PROFILE=thorough pytest tests/test_archives.py   2,000 examples per property, not 100
"""

import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BLOCK = 512  # bytes, of a tar


def mutations(*kinds: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Return a strategy for one to four operations of these kinds, or all: see `mutate`."""
    where = st.floats(0, 1, exclude_max=True)  # share of the content that stands before
    length = st.integers(1, 32) | st.integers(1, 12).map(lambda blocks: blocks * BLOCK)
    arguments = {
        "flip": (where, st.integers(1, 255)),  # the bits that change
        "cut": (where,),
        "insert": (where, st.binary(min_size=1, max_size=2 * BLOCK)),
        "delete": (where, length),
    }
    each = [st.tuples(st.just(kind), *arguments[kind]) for kind in kinds or arguments]
    return st.lists(st.one_of(each), min_size=1, max_size=4)


def mutate(content: bytes, operations: list[tuple[Any, ...]]) -> bytes:
    """Return the content after the operations; whole blocks are deleted from a block's start."""
    for kind, where, *arguments in operations:
        start = int(where * len(content))
        if kind == "flip":
            flipped = content[start : start + 1]
            flipped = bytes(byte ^ arguments[0] for byte in flipped)
            content = content[:start] + flipped + content[start + 1 :]
        elif kind == "cut":
            content = content[:start]
        elif kind == "insert":
            content = content[:start] + arguments[0] + content[start:]
        else:
            if arguments[0] % BLOCK == 0:
                start -= start % BLOCK
            content = content[:start] + content[start + arguments[0] :]
    return content

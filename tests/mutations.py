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

KINDS = ("flip", "cut", "zero", "insert", "delete", "swap")
BLOCK = 512  # bytes, of a tar


def mutations(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Return a strategy for one to four operations, which `mutate` applies to a content."""
    where = st.floats(0, 1, exclude_max=True)  # share of the content that stands before
    length = st.integers(1, 32) | st.integers(1, 12).map(lambda blocks: blocks * BLOCK)
    arguments = {
        "flip": (where, st.integers(1, 255)),  # the bits that change
        "cut": (where,),
        "zero": (where, length),
        "insert": (where, st.binary(min_size=1, max_size=2 * BLOCK)),
        "delete": (where, length),
        "swap": (where, length, where),
    }
    each = [st.tuples(st.just(kind), *arguments[kind]) for kind in kinds]
    return st.lists(st.one_of(each), min_size=1, max_size=4)


def mutate(content: bytes, operations: list[tuple[Any, ...]]) -> bytes:
    """Return the content after the operations; what is whole blocks long begins at a block."""
    for kind, where, *arguments in operations:
        start = int(where * len(content))
        length = arguments[0] if kind in ("zero", "delete", "swap") else 1
        start -= start % BLOCK if length % BLOCK == 0 else 0
        before, part, after = content[:start], content[start:][:length], content[start + length :]
        if kind == "flip":
            part = bytes(byte ^ arguments[0] for byte in part)
        elif kind == "cut":
            part = after = b""
        elif kind == "zero":
            part = bytes(len(part))
        elif kind == "insert":
            part = arguments[0] + part
        elif kind == "delete":
            part = b""
        else:  # the part trades places with as many bytes of what comes after it
            skip = int(arguments[1] * len(after))
            skip -= skip % BLOCK if length % BLOCK == 0 else 0
            other = after[skip:][:length]
            after = after[:skip] + part + after[skip + length :]
            part = other
        content = before + part + after
    return content

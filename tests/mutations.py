"""Random damage to a file's content, and the profiles of hypothesis.

HYPOTHESIS_PROFILE=thorough pytest tests/test_archives.py   2,000 examples per property, not 100
"""

import os

from hypothesis import settings
from hypothesis import strategies as st

settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BLOCK = 512  # bytes, of a tar
Damage = tuple[float, int, bytes]  # share of the content before it, bytes that go, bytes that come


def mutations(whole_blocks: bool = True) -> st.SearchStrategy[list[Damage]]:
    """Return a strategy for one to four damages; on request none takes out blocks of a tar."""
    where = st.floats(0, 1, exclude_max=True)
    length = st.sampled_from([0, 1, 2**30])  # an insertion, a change, a cut
    if whole_blocks:
        length |= st.integers(2, 32) | st.integers(1, 12).map(lambda blocks: blocks * BLOCK)
    new = st.just(b"") | st.binary(min_size=1, max_size=1) | st.binary(max_size=2 * BLOCK)
    return st.lists(st.tuples(where, length, new), min_size=1, max_size=4)


def mutate(content: bytes, operations: list[Damage]) -> bytes:
    """Return the content after the damages; whole blocks go from a block's start."""
    for where, length, new in operations:
        start = int(where * len(content))
        if length in range(BLOCK, 2**30, BLOCK):
            start -= start % BLOCK
        content = content[:start] + new + content[start + length :]
    return content

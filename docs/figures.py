"""
Every figure of README and docs: what the commands of `docs/measure.py` found, written between marks like
`<!-- figures: zoo -->`.
"""

import re
from collections.abc import Callable

from blocks import (
    checkpoint,
    claims,
    fixed,
    generation,
    pictures,
    policy,
    serving,
    sources,
    speed,
    tatok,
    training,
)


PAGES = (
    "README.md",
    "docs/claims.md",
    "docs/evaluation.md",
    "docs/export.md",
    "docs/generation.md",
    "docs/policy.md",
    "docs/scale.md",
    "docs/space.md",
    "docs/speed.md",
    "docs/tatok.md",
    "docs/training.md",
)
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
BLOCKS: tuple[Callable[[], str], ...] = (
    checkpoint.zoo,
    checkpoint.quality,
    policy.policy,
    policy.policy_sentence,
    speed.speed,
    serving.export,
    serving.bulk,
    serving.space,
    generation.generation,
    generation.generation_lengths,
    generation.generation_speed,
    tatok.tatok,
    tatok.tatok_codec_speed,
    tatok.tatok_speed,
    fixed.fixed,
    fixed.fixed_sentence,
    claims.claims,
    training.pilots,
    training.training_cost,
    pictures.grid,
    pictures.tatok_grid,
    pictures.generated,
)


def write_blocks(text: str) -> str:
    """Puts the figures between their marks."""
    blocks = {block.__name__: block for block in BLOCKS}
    return BLOCK.sub(lambda match: match[1] + blocks[match[2]]() + match[3], text)


def main():
    """Writes the pages."""
    for page in PAGES:
        path = sources.ROOT / page
        path.write_text(write_blocks(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

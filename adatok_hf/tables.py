"""Tables for the terminal and for Markdown."""

from collections.abc import Sequence


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    """
    Lays out lines of cells in columns, the first flush left and the others flush right.

    Args:
        lines (`Sequence[Sequence[str]]`): At least one; all of one length.

    Example:

    ```python
    >>> from adatok_hf.tables import align_columns

    >>> print(align_columns([("image", "budget"), ("a.png", "8")]))
    image  budget
    a.png       8

    ```"""
    first, *others = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([f"{line[0]:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(line[1:], others))])
        for line in lines
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A table in Markdown.

    Example:

    ```python
    >>> from adatok_hf.tables import markdown_table

    >>> print(markdown_table(["image", "budget"], [["a.png", "8"]]))
    | image | budget |
    | --- | --- |
    | a.png | 8 |

    ```"""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


__all__ = ["align_columns", "markdown_table"]

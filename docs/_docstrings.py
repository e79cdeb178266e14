"""Render literal blocks of docstrings (reStructuredText, indented after ``::``) as Markdown code blocks."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

BLOCK = re.compile(r"::\n\n((?: {4}.*(?:\n|$)|\n(?= {4}|\n))+)")


class LiteralBlocks(griffe.Extension):
    """Convert literal blocks to highlighted Python."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a loaded object."""
        if obj.docstring:
            obj.docstring.value = BLOCK.sub(_fence, obj.docstring.value)


def _fence(match: re.Match[str]) -> str:
    return f":\n\n```python\n{textwrap.dedent(match[1]).strip()}\n```\n"

"""Addresses as the documents write them: in [brackets] what may be left out, in (parentheses, these) one of several."""

from __future__ import annotations

import re
from itertools import chain

__all__ = ["expanded"]


def expanded(template: str) -> set[str]:
    """What a resource with [what may be left out] and (one of, these) stands for."""
    if found := re.search(r"\(([^()]*)\)", template):
        return set(chain(*(expanded(template.replace(found[0], one.strip(), 1)) for one in found[1].split(","))))
    if found := re.search(r"\[([^\[\]]*)\]", template):
        # the innermost brackets: what is around them may be left out only with them
        return expanded(template.replace(found[0], "", 1)) | expanded(template.replace(found[0], found[1], 1))
    return {template.rstrip("/")}

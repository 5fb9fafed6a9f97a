"""MkDocs hook: formulas as GitHub writes them become MathML, which needs no script."""

import re
from typing import Any

from latex2mathml.converter import convert

# Code stays as it is; it comes first, so that a dollar sign in it is none of ours.
PARTS = re.compile(
    r"^```math\n(?P<block>.*?)\n```$|(?P<code>^```.*?^```$|`[^`\n]*`)|\$(?P<inline>[^$\n]+)\$",
    re.MULTILINE | re.DOTALL,
)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Turn blocks of `math` and text between dollar signs into MathML."""

    def convert_part(part: re.Match[str]) -> str:
        if part["block"] is not None:
            return convert(part["block"], display="block")
        return part[0] if part["code"] is not None else convert(part["inline"])

    return PARTS.sub(convert_part, markdown)

"""Hook of mkdocs.yml: what pages and docstrings hold that its Markdown would show otherwise than a forge or help()."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files outside docs/, which the site does not hold, by their paths."""
    return re.sub(r"\[[^\]]*\]\(\.\./([^)\s]+)\)", r"`\1`", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Remove the roles and double colons of docstrings; G*kh*kw is a product, not emphasis."""
    html = re.sub(r":(?:func|class|meth):(?=<code>)", "", html)
    html = re.sub(r"::</p>", ":</p>", html)
    return re.sub(r"(?<=\w)<em>(\w+)</em>(?=\w)", r"*\1*", html)

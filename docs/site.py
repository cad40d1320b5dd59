"""Hook of mkdocs.yml: links to files outside docs/ become their paths, since the site holds the pages alone."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"\[[^\]]*\]\(\.\./([^)\s]+)\)", r"`\1`", markdown)

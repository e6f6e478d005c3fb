from io import StringIO

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

parser = MarkdownIt("js-default")  # tables enabled, HTML disabled
# No images: their URLs could reveal a conversation to another site.
TAGS = nh3.ALLOWED_TAGS - {"img"}


def render(text: str) -> SafeString:
    return mark_safe(nh3.clean(parser.render(text), tags=TAGS))


def split_last_block(text: str) -> tuple[str, str]:
    """Split the text before its last block, the only one that further text can change."""
    starts = [token.map[0] for token in parser.parse(text) if token.level == 0 and token.map]
    lines, last = StringIO(text).readlines(), starts[-1] if starts else 0
    return "".join(lines[:last]), "".join(lines[last:])

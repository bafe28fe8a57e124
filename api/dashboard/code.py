"""JSON as people read it: indented and coloured, without being parsed.

What came is shown as it came: parsing would drop repeated keys and round long numbers. Everything is escaped.
"""

import re

from markupsafe import Markup, escape

MAX_COLOURED = 32 * 1024
MAX_SHOWN = 256 * 1024
MAX_INDENT = 16

_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<open>[{\[])|(?P<close>[}\]])|(?P<sep>[,:])|(?P<word>[^\s{}\[\],:"]+)|\s+|(?P<odd>.)'
)


def json_markup(payload: bytes) -> Markup:
    """A payload for a `<pre>`. What is too long for colours is shown plain."""
    shown = payload[:MAX_SHOWN].decode(errors="replace")
    if len(payload) > MAX_COLOURED:
        return escape(shown) + (Markup("\n…") if len(payload) > MAX_SHOWN else Markup(""))
    return _coloured(shown)


def text_markup(body: bytes) -> Markup:
    """An answer's body: coloured where it begins as JSON does, plain otherwise. All of them are hostile."""
    if len(body) <= MAX_COLOURED and body.lstrip()[:1] in (b"{", b"["):
        return _coloured(body.decode(errors="replace"))
    return escape(body[:MAX_SHOWN].decode(errors="replace"))


def _coloured(source: str) -> Markup:
    parts: list[Markup] = []
    depth = 0
    words = [match for match in _TOKEN.finditer(source) if match.lastgroup is not None]
    for at, match in enumerate(words):
        kind, word = match.lastgroup, match.group()
        following = words[at + 1].group() if at + 1 < len(words) else ""
        if kind == "open":
            depth += 1
            empty = following in ("}", "]")
            parts.append(escape(word) + (Markup("") if empty else _line(depth)))
        elif kind == "close":
            depth = max(depth - 1, 0)
            empty = at > 0 and words[at - 1].lastgroup == "open"
            parts.append((Markup("") if empty else _line(depth)) + escape(word))
        elif word == ",":
            parts.append(Markup(",") + _line(depth))
        elif word == ":":
            parts.append(Markup(": "))
        elif kind == "text":
            parts.append(_span("key" if following == ":" else "str", word))
        else:
            parts.append(_span("num", word))
    return Markup("").join(parts)


def _line(depth: int) -> Markup:
    return escape("\n" + "  " * min(depth, MAX_INDENT))


def _span(kind: str, word: str) -> Markup:
    return Markup('<span class="{}">{}</span>').format(kind, word)


def url_markup(url: str) -> Markup:
    """A URL that breaks behind its slashes. That of the rule, `https`, is left out."""
    parts = url.removeprefix("https://").split("/")
    return Markup("/<wbr>").join(escape(part) for part in parts)

"""JSON as people read it: indented and coloured, without being parsed.

What came is shown as it came: parsing would drop repeated keys and round long numbers. Everything is escaped.

Payloads and response bodies are untrusted input, and pages are rendered on the event loop. So the work is linear in
what is shown, and bounded: a page colours `COLOURED_TOKENS` tokens in all, and shows the rest as plain text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup, escape

MAX_SHOWN = 256 * 1024
MAX_INDENT = 16
COLOURED_TOKENS = 5_000
"""About 10 ms of work and, at the deepest indentation, 300 KB of markup."""

_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*+"?)|(?P<open>[{\[])|(?P<close>[}\]])|(?P<sep>[,:])|(?P<word>[^\s{}\[\],:"]++)|\s++',
    re.DOTALL,
)
"""Every character begins a token, and no token is given up once begun: a string that has no end is one, too. Else
each quote in such a string would be tried as the start of another, which is quadratic."""


@dataclass
class Highlighter:
    """Colours the texts of one page. `tokens_left` is what it may still colour."""

    tokens_left: int = COLOURED_TOKENS

    def payload(self, payload: bytes) -> Markup:
        """A payload for a `<pre>`: JSON by contract."""
        return self._shown(payload, is_json=True)

    def body(self, body: bytes) -> Markup:
        """The body of a response: coloured if it begins as JSON does, plain otherwise."""
        return self._shown(body, is_json=body[:100].lstrip()[:1] in (b"{", b"["))

    def _shown(self, content: bytes, *, is_json: bool) -> Markup:
        source = content[:MAX_SHOWN].decode(errors="replace")
        end = "\n…" if len(content) > MAX_SHOWN else ""
        return (self._coloured(source) if is_json else escape(source)) + end

    def _coloured(self, source: str) -> Markup:
        parts: list[str] = []
        depth = coloured_to = 0
        before = ""
        tokens = _tokens(source)
        token = next(tokens, None)
        while token is not None and self.tokens_left > 0:
            following = next(tokens, None)
            kind, word, coloured_to = token
            after = following[1] if following is not None else ""
            self.tokens_left -= 1
            if kind == "open":
                depth += 1
                parts.append(word if after in ("}", "]") else word + _line(depth))
            elif kind == "close":
                depth = max(depth - 1, 0)
                parts.append(word if before == "open" else _line(depth) + word)
            elif kind == "sep":
                parts.append(": " if word == ":" else "," + _line(depth))
            else:
                colour = "num" if kind == "word" else "key" if after == ":" else "str"
                parts.append(f'<span class="{colour}">{escape(word)}</span>')
            before, token = kind, following
        return Markup("".join(parts)) + source[coloured_to:]  # noqa: S704 - all that is the source's is escaped


def _tokens(source: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and end of each token that is no white space."""
    for match in _TOKEN.finditer(source):
        if match.lastgroup is not None:
            yield match.lastgroup, match.group(), match.end()


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, MAX_INDENT)


def with_code(text: str) -> Markup:
    """A text in which what stands between backticks is code."""
    parts = [f"<code>{escape(part)}</code>" if n % 2 else escape(part) for n, part in enumerate(text.split("`"))]
    return Markup("").join(Markup(part) for part in parts)  # noqa: S704 - each part is escaped


def url_markup(url: str) -> Markup:
    """A URL that may be broken after each slash. That of the rule, `https`, is left out."""
    parts = url.removeprefix("https://").split("/")
    return Markup("/<wbr>").join(escape(part) for part in parts)

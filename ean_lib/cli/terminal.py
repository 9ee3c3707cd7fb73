"""Output to terminals that cannot show every letter: a sign that an encoding lacks is written in ASCII."""

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager

IN_ASCII = {
    "–": "-", "—": "-", "−": "-", "±": "+-", "×": "x", "·": "*", "…": "...", "≤": "<=", "≥": ">=", "→": "->",
    "½": "1/2", "λ": "lambda", "σ": "sigma", "µ": "u", "“": '"', "”": '"', "‘": "'", "’": "'", "é": "e", "á": "a",
}  # fmt: skip


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(letter, "?") for letter in unknown), error.end


codecs.register_error("ean_lib.in_ascii", _in_ascii)


@contextmanager
def write_in_any_encoding() -> Iterator[None]:
    """Within it, stdout and stderr write a letter that they lack in ASCII instead of raising an error."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="ean_lib.in_ascii")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)

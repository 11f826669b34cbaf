"""Check that documents are plain: no sentence above 40 words, no page with a mean above 20. ``make check`` runs it.

Headings, tables and code are not looked at; an item of a list is a paragraph, and code within a sentence is a word.
"""

import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

LONGEST, MEAN = 40, 20

_ROOT = Path(__file__).resolve().parents[1]
_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z0-9`])")
_ABBREVIATED = re.compile(r"\b(e\.g|i\.e|vs|fig|al|cf|sec)\.$", re.IGNORECASE)


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the words of each paragraph."""
    depth = 0
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        depth += (token.type == "table_open") - (token.type == "table_close")
        if token.type != "inline" or depth or (before is not None and before.type == "heading_open"):
            continue
        words = "".join(
            "code" if child.type == "code_inline" else " " if child.type == "softbreak" else child.content
            for child in token.children or []
            if child.type not in ("image", "html_inline")
        )
        yield (token.map or [0])[0] + 1, words


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph."""
    found: list[str] = []
    for part in _END.split(paragraph):
        if found and _ABBREVIATED.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found


def words(sentence: str) -> int:
    """Count what has a letter or a digit, between blanks."""
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


def complaints(path: Path) -> list[str]:
    """Return what is wrong with a page, a line each."""
    name, found, lengths = path.relative_to(_ROOT), [], []
    for line, paragraph in paragraphs(path.read_text(encoding="utf-8")):
        for sentence in sentences(paragraph):
            lengths.append(words(sentence))
            if lengths[-1] > LONGEST:
                found.append(
                    f"{name}:{line}: a sentence has {lengths[-1]} words, more than {LONGEST}: {sentence[:60]}..."
                )
    lengths = [length for length in lengths if length > 0]
    if lengths and statistics.mean(lengths) > MEAN:
        found.append(f"{name}: sentences have {statistics.mean(lengths):.1f} words in the mean, at most {MEAN}")
    return found


def main() -> int:
    """Print what is wrong with the documents; return the exit code."""
    pages = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])
    found = [complaint for page in pages for complaint in complaints(page)]
    print(*found, sep="\n" if found else "", end="\n" if found else "")
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main())

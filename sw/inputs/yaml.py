"""The user's files: YAML that remembers its lines, and names of shipped files.

Everything a user can get wrong ends in an :class:`InputError`, whose text is one line: the command line
prints it and exits with 2.
"""

import difflib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError

from rowmesh.sw.inputs.errors import InputError, one_line

__all__ = [
    "Document",
    "Kind",
    "Place",
    "find",
    "own_text",
    "parse",
    "read",
    "shipped_names",
    "show_path",
    "show_value",
    "suggest",
]

Kind = Literal["arch", "workloads", "dataflows", "energy"]
#: Where in a document: keys and indices from the top.
Place = tuple[str | int, ...]

_TITLES: Mapping[Kind, str] = {
    "arch": "architecture",
    "workloads": "workload",
    "dataflows": "dataflow",
    "energy": "energy table",
}
_SUFFIXES = (".yaml", ".yml")
_TYPE_NAMES = {list: "list", dict: "mapping"}
_LARGEST_FILE = 1 << 20
_MOST_VALUES = 100_000
_MOST_TOLD = 20  # complaints about a file
# ruamel raises any of these on malformed files
_READER_ERRORS = (
    YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    AssertionError,
    RecursionError,
)


def show_value(value: object) -> str:
    """Return a value as it is quoted in a message: short, and always on one line."""
    if isinstance(value, dict | list) and len(value) > 6:
        return f"a {_TYPE_NAMES[type(value)]} of {len(value)} entries"
    try:
        text = one_line(repr(value))
    except ValueError:  # an integer of more digits than Python prints
        text = "a very long number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def show_path(path: Place) -> str:
    """Return a place in a document as ``layers[2].stride``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return one_line(text)


def suggest(word: object, known: Iterable[str]) -> str | None:
    """Return the known word nearest to one that is unknown, or None when none is near."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), list(lower), n=1, cutoff=0.5)
    return lower[near[0]] if near else None


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: plain Python values, and the line of each of them.

    Parameters
    ----------
    source : str
        The file's name for messages.
    data : object
        dict, list, str, int, float, bool or None, nested.
    lines : Mapping
        Line, counted from one, of every value, by its path.
    """

    source: str
    data: Any
    lines: Mapping[Place, int]

    def line(self, path: Place) -> int:
        """Return the line of a value, or that of the nearest value around it if it is absent."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Place, message: str) -> InputError:
        """Return the error ``file:line: field: message``."""
        field = show_path(path)
        return InputError(
            f"{self.source}:{self.line(path)}: {field}: {message}"
            if field
            else f"{self.source}:{self.line(path)}: {message}"
        )

    def errors(self, complaints: Iterable[tuple[Place, str]]) -> InputError:
        """Return the error that tells several complaints about values, in their order.

        Of a file with very many only the first ones are told, and how many there are.
        """
        told = list(dict.fromkeys(complaints))
        parts = [str(self.error(*told[0]))]
        for path, message in told[1:_MOST_TOLD]:
            parts.append(f"line {self.line(path)}: {show_path(path)}: {message}")
        if len(told) > _MOST_TOLD:
            parts.append(f"{len(told) - _MOST_TOLD} more")
        return InputError("; ".join(parts))

    def mapping(self, path: Place, value: object) -> dict[str, Any]:
        """Return a value that must be a mapping with string keys.

        Raises
        ------
        InputError
            If it is anything else.
        """
        if not isinstance(value, dict):
            raise self.error(path, f"must be a mapping, not {show_value(value)}")
        for key in value:
            if not isinstance(key, str):
                raise self.error((*path, key), f"a key must be a string, not {show_value(key)}")
        return value

    def known_keys(self, path: Place, value: Mapping[str, Any], known: Iterable[str]) -> None:
        """Refuse keys that are not known, with the nearest one that is.

        Raises
        ------
        InputError
            For all unknown keys.
        """
        if complaints := self.unknown(path, value, known):
            raise self.errors(complaints)

    def unknown(self, path: Place, value: Mapping[str, Any], known: Iterable[str]) -> list[tuple[Place, str]]:
        """Return the complaints about keys that are not known, each with the nearest one that is."""
        names = list(known)
        return [((*path, key), unknown_key(key, names)) for key in value if key not in names]

    def section(self, name: str) -> dict[str, Any]:
        """Return the one mapping that the file consists of.

        Raises
        ------
        InputError
            If the file holds something else.
        """
        if self.data is None:
            raise InputError(f"{self.source}:1: the file is empty, it must hold a mapping {name}:")
        top = self.mapping((), self.data)
        self.known_keys((), top, [name])
        if name not in top:
            raise InputError(f"{self.source}:1: {name}: is required, the file must hold a mapping {name}:")
        return self.mapping((name,), top[name])


def unknown_key(key: object, known: Iterable[str]) -> str:
    """Return the message for an unknown key."""
    names = list(known)
    near = suggest(key, names)
    return "unknown key, " + (f"did you mean {near}?" if near else f"known keys are {', '.join(names)}")


class _Plain:
    """Turns what the YAML reader built into plain values, and notes the line of each."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Place, int] = {}

    def convert(self, value: Any, path: Place, line: int) -> Any:
        self.lines[path] = line
        if len(self.lines) > _MOST_VALUES:
            raise InputError(f"{self.source}: has more than {_MOST_VALUES} values")
        if isinstance(value, TaggedScalar) or getattr(getattr(value, "tag", None), "value", None):
            raise InputError(f"{self.source}:{line}: {show_path(path)}: tags (!name) are not supported")
        if isinstance(value, CommentedMap):
            return {
                _scalar(key): self.convert(item, (*path, _scalar(key)), at)
                for key, item, at in self._items(value, line)
            }
        if isinstance(value, CommentedSeq):
            return [self.convert(item, (*path, key), at) for key, item, at in self._items(value, line)]
        return _scalar(value)

    @staticmethod
    def _items(value: CommentedMap | CommentedSeq, line: int) -> Iterator[tuple[Any, Any, int]]:
        pairs = value.items() if isinstance(value, CommentedMap) else enumerate(value)
        for key, item in pairs:
            try:
                at = (value.lc.key(key) if isinstance(value, CommentedMap) else value.lc.item(key))[0] + 1
            except (KeyError, TypeError, AttributeError):  # merged from an alias: no place of its own
                at = line
            yield key, item, at


def _scalar(value: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    # ruamel keeps YAML's booleans with an anchor in a class of its own
    return bool(value) if type(value).__name__ == "ScalarBoolean" else value


def parse(text: str, source: str) -> Document:
    """Parse YAML 1.2.

    Parameters
    ----------
    text : str
        The file's text.
    source : str
        The file's name for messages.

    Raises
    ------
    InputError
        If it is not YAML.
    """
    reader = YAML(typ="rt")
    plain = _Plain(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML 1.2 allows an anchor to be defined again
            documents = list(reader.load_all(text))
        data = plain.convert(documents[0], (), 1) if documents else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise InputError(f"{where}: not valid YAML: {_first_sentence(error.problem or str(error))}") from None
    except _READER_ERRORS as error:
        raise InputError(f"{source}: not valid YAML: {_first_sentence(str(error))}") from None
    if len(documents) > 1:
        raise InputError(f"{source}: holds {len(documents)} YAML documents, it must hold one")
    return Document(source, data, plain.lines)


def _first_sentence(text: str) -> str:
    return one_line(text.strip().split("\n")[0]) or "unreadable"


def shipped_names(kind: Kind) -> list[str]:
    """Return the names of the shipped files of one kind, sorted."""
    folder = resources.files("rowmesh.configs").joinpath(kind)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find(kind: Kind, name_or_path: str | os.PathLike[str]) -> tuple[str, str]:
    """Find a shipped file by name, or the user's own by path.

    A shipped name wins over a file of the same name: write ``./demo`` for the file.

    Parameters
    ----------
    kind : {"arch", "workloads", "dataflows", "energy"}
        What is looked for.
    name_or_path : str or path
        ``eyeriss``, or ``my/arch.yaml``.

    Returns
    -------
    stem : str
        Name of the file without folder and suffix.
    text : str
        Its text.

    Raises
    ------
    InputError
        If there is no such file or it cannot be read.
    """
    title, names = _TITLES[kind], shipped_names(kind)
    given = os.fspath(name_or_path)
    if given in names:
        data = resources.files("rowmesh.configs").joinpath(kind, f"{given}.yaml").read_bytes()
        return given, data.decode()
    path = Path(given)
    text = _own_text(given, title, f"{_article(title)} is a YAML file or one of {', '.join(names)}")
    if text is not None:
        return path.stem, text
    if path.suffix in _SUFFIXES or path.name != given:
        near = suggest(given, _own_files(path.parent))
        raise InputError(
            f"{show_value(given)}: no such file"
            + (f", did you mean {show_value(near)}?" if near else f"; shipped {title}s are {', '.join(names)}")
        )
    own = {Path(name).stem: name for name in _own_files()}
    near = suggest(given, [*own, *names])
    near = own.get(near, near) if near else None
    raise InputError(
        f"no {title} named {show_value(given)}"
        + (f", did you mean {near if near in names else show_value(near)}?" if near else "")
        + f" Shipped are {', '.join(names)}; or give the path of a YAML file"
    )


def _own_files(folder: Path = Path()) -> list[str]:
    """Return the paths of the YAML files of a folder; none if it cannot be read."""
    try:
        return sorted(str(path) for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    except (OSError, ValueError):
        return []


def _own_text(given: str, title: str, rule: str, largest: int = _LARGEST_FILE) -> str | None:
    """Return the text of the user's file, or None if there is none of that name; ``rule`` says what it must be."""
    path = Path(given)
    try:
        # a device or a pipe would block or never end
        if path.is_file():
            if path.stat().st_size > largest:
                raise InputError(f"{given}: is larger than {largest >> 20} MB, too large for {_article(title)}")
            return path.read_bytes().decode("utf-8-sig")
        if path.exists() and given:
            raise InputError(f"{given}: is not a file, {rule}")
    except UnicodeDecodeError as error:
        raise InputError(f"{given}: is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{show_value(given)}: cannot be read: {reason}") from None
    return None


def own_text(path: str | os.PathLike[str], title: str, made_by: str, largest: int = _LARGEST_FILE) -> str:
    """Return the text of a kind of file of which none is shipped.

    Parameters
    ----------
    path : str or path
    title, made_by : str
        What the file is, and the command that writes it, for messages.
    largest : int
        Bytes.

    Raises
    ------
    InputError
        If there is no such file or it cannot be read.
    """
    given = os.fspath(path)
    text = _own_text(given, title, f"{_article(title)} is what `{made_by}` writes", largest)
    if text is None:
        raise InputError(f"{show_value(given)}: no such file; {_article(title)} is what `{made_by}` writes")
    return text


def _article(title: str) -> str:
    return f"{'an' if title[0] in 'aeiou' else 'a'} {title}"


def read(kind: Kind, name_or_path: str | os.PathLike[str]) -> tuple[str, Document]:
    """Find and parse a file.

    Returns
    -------
    stem : str
        Name of the file without folder and suffix.
    document : Document

    Raises
    ------
    InputError
        If it cannot be found, read or parsed.
    """
    stem, text = find(kind, name_or_path)
    given = os.fspath(name_or_path)
    return stem, parse(text, f"{given}.yaml" if given in shipped_names(kind) else given)

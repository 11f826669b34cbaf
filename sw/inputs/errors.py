"""What is wrong with something that a user gave: one line, with which the command line exits with 2."""

__all__ = ["InputError", "one_line"]


def one_line(text: str) -> str:
    """Return the text on a single line: runs of white space and control characters become one space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


class InputError(Exception):
    """Something the user gave is wrong. The text is one line and stands on its own.

    Parameters
    ----------
    message : str
        What must be and what was given; line breaks are folded.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

"""Names of files as text, whatever the locale's encoding."""

import os


def as_text(name: str) -> str:
    """A file's name as text: its bytes as UTF-8. Bytes that are none are surrogates.

    ```python
    as_text(os.listdir("photos")[0])
    ```
    """
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def as_file_name(text: str) -> str:
    """The name of a file, as this process must give it to the system, for such a text.

    ```python
    Path(as_file_name("grün.png"))
    ```
    """
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))

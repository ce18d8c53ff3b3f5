"""What the site adds to the pages of docs/: files of the repository as pages, links that hold.

The README is the first page, so that it is written once. A link to a file that is no page, such as
a study or a table of results, becomes that file's path: the site is complete without a server for
the repository.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "studies/README.md": "studies.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files of the repository that are pages of the site."""
PICTURES = (".png", ".jpg", ".svg")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s#]+)(#\w[\w-]*)?\)")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_FIGURE = re.compile(r"[-+−]?\d[\d.]* (?:± \d|\[[-+−]?\d[^\]|]*\])")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files of the repository that are pages, and the pictures that these show."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for _, target, _ in _PICTURE.findall(text):
            path = normpath(PurePosixPath(source).parent / target)
            if not path.startswith("docs/"):
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page, so that each leads to a page of the site or names a file."""
    here = page.file.src_uri
    source = next((source for source, made in PAGES.items() if made == here), f"docs/{here}")
    known = {file.src_uri for file in files if file.inclusion.is_included()}
    return rewritten(markdown, source, here, known)


def indented(markdown: str) -> str:
    r"""The text with four spaces before what belongs to an item of a list.

    The site's Markdown needs them, and an empty line between an item's second paragraph and the
    next item. Other readers are content with the width of the item's mark.

    ```python
    indented("1. one\n\n   more\n2. two")  # "1. one\n\n    more\n\n2. two"
    ```
    """
    lines, more, paragraphs = [], 0, 1
    for line in markdown.splitlines():
        if mark := _ITEM.match(line):
            if more and paragraphs > 1 and lines[-1]:
                lines.append("")
            more, paragraphs = 4 - len(mark[0]), 1
        elif not line:
            paragraphs += 1
        elif not line.startswith(" "):
            more = 0
        belongs = more and line.startswith(" " * (4 - more))
        lines.append(" " * more + line if belongs else line)
    return "\n".join(lines) + "\n"


def unbroken(markdown: str) -> str:
    """The text with no line break between a table's figure and its interval.

    ```python
    unbroken("| a | 1.5 [1.2, 1.8] |")
    ```
    """
    return "\n".join(
        _FIGURE.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), line)
        if line.startswith("|")
        else line
        for line in markdown.split("\n")
    )


def rewritten(markdown: str, source: str, here: str, known: set[str]) -> str:
    """The text of a page with its links as the site needs them.

    ```python
    rewritten("[all](docs/methods.md)", "README.md", "index.md", {"methods.md"})
    ```

    Args:
        markdown: The text.
        source: The file's path in the repository.
        here: The page's path in the site.
        known: Paths of all files of the site.
    """

    def target_of(link: str) -> str | None:
        """The path in the site that a link leads to; None for a file that is not in it."""
        path = normpath(PurePosixPath(source).parent / link)
        made = PAGES.get(path, path.removeprefix("docs/"))
        return made if made in known else None

    def linked(match: re.Match[str]) -> str:
        text, link = match[1], match[2]
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        path, hash_sign, anchor = link.partition("#")
        made = target_of(path)
        if made is not None:
            return f"[{text}]({relpath(made, PurePosixPath(here).parent)}{hash_sign}{anchor})"
        file = normpath(PurePosixPath(source).parent / path)
        return text if text.strip("`") in file else f"{text} (`{file}`)"

    def shown(match: re.Match[str]) -> str:
        made = target_of(match[2])
        if made is None:
            return match[0]
        return f"![{match[1]}]({relpath(made, PurePosixPath(here).parent)}{match[3] or ''})"

    markdown = unbroken(indented(markdown))
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else _LINK.sub(linked, _PICTURE.sub(shown, part))
        for part in parts
    )

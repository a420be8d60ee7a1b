"""The page of a report: sections with tables and pictures, in one file that needs no other."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from matplotlib.figure import Figure


@dataclass
class Picture:
    """A PNG picture.

    Attributes:
        name: name that says what the picture shows.
        data: bytes of the picture in base64.
    """

    name: str
    data: str


@dataclass
class Section:
    """A heading with a table below its pictures.

    Attributes:
        title: heading.
        note: sentence below the heading.
        headings: headings of the table's columns.
        rows: cells of the table, row by row.
        pictures: pictures above the table.
        folded: whether table and pictures are shown only when the reader asks for them.
    """

    title: str
    note: str = ""
    headings: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    folded: bool = False


def picture(figure: Figure, name: str, folder: Path) -> Picture:
    """Writes the PNG and returns it for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    (folder / f"{name}.png").write_bytes(buffer.getvalue())
    return existing_picture(folder / f"{name}.png", name)


def existing_picture(path: Path, name: str) -> Picture:
    """Returns a PNG file for the page."""
    return Picture(name, base64.b64encode(path.read_bytes()).decode())


def render(intro: str, sections: Sequence[Section], folders: Sequence[Path]) -> str:
    """Returns the page as HTML; it names `folders` as the source of its numbers."""
    loader = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True)
    )
    return loader.get_template("report.html.j2").render(intro=intro, sections=sections, folders=folders)

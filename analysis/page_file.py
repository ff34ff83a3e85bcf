"""A page as one HTML file: a template filled in, its own script inside of it, put into its place whole."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scaleexp.errors import StorageError


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """The page as text; every value is escaped that is no markup, and one that is missing is an error.

    Args:
        template: name of its file among our templates.
        values: what it shows, by name.
    """
    environment = Environment(
        loader=PackageLoader("analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def inline_script(name: str) -> dict[str, str]:
    """A script of ours as `script`, and as `script_hash` what the page's policy lets it run by, and no other.

    Args:
        name: of its file among our templates.
    """
    script = (files("analysis") / "templates" / name).read_text(encoding="utf-8")
    return {
        "script": Markup(script),
        "script_hash": base64.b64encode(sha256(script.encode()).digest()).decode(),
    }


def write_html(html: str, path: Path, *, what: str) -> Path:
    """Put a page into its place, whole at any moment, and return the place.

    Args:
        html: the page.
        path: where; directories that are not there are made.
        what: the page is called to the user: page or report.

    Raises:
        StorageError: the file cannot be written; the one before is as it was.
    """
    if path.is_dir():
        raise StorageError(f"cannot write the {what} to {path}: it is a directory. Name a file in it.")
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):  # of a full disk it would hold what is left
            unfinished.unlink()
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write the {what} to {path}: {reason}. Choose a writable place.") from error
    return path

"""A page shows nothing that nobody gave, runs its own script alone, and takes its place whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from analysis.page_file import inline_script, rendered, write_html
from scaleexp.errors import StorageError


def test_a_value_that_nobody_gave_is_an_error_and_no_empty_place():
    with pytest.raises(UndefinedError, match="'refresh_s' is undefined"):
        rendered("live.html.j2", {})


@pytest.mark.parametrize("name", ["report.js", "frontier.js"])
def test_a_script_stands_in_the_page_as_its_hash_has_it(name):
    inlined = inline_script(name)
    in_the_page = escape(inlined["script"])
    digest = hashlib.sha256(in_the_page.encode()).digest()
    assert '"' in in_the_page
    assert inlined["script_hash"] == base64.b64encode(digest).decode()


def test_a_page_takes_the_place_of_the_one_before_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "page.html"
    for html in ("one", "two é"):
        assert write_html(html, path, what="page") == path
        assert path.read_text(encoding="utf-8") == html
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("what", ["page", "report"])
def test_a_page_that_cannot_be_finished_leaves_the_one_before(tmp_path, monkeypatch, what):
    path = write_html("one", tmp_path / "page.html", what=what)

    def half(self: Path, text: str, encoding: str, errors: str) -> None:
        self.write_bytes(text.encode(encoding)[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(StorageError) as caught:
        write_html("two", path, what=what)
    assert str(caught.value) == f"cannot write the {what} to {path}: No space left on device. Choose a writable place."
    assert path.read_text() == "one"


def test_a_page_that_cannot_be_put_there_leaves_nothing_and_is_told_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match=r"cannot write the page to .*: it is a directory\. Name a file"):
        write_html("x", tmp_path, what="page")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_html("x", tmp_path / "page.html", what="page")
    assert list(tmp_path.iterdir()) == []

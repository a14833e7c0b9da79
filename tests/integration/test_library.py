"""The package as a library, as `docs/library.md` shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import groot_fast
from groot_fast import Groot, GrootError, Settings, errors
from support.archive import Archive
from support.command import REPOSITORY, Store


def example() -> Callable[[Path, str], str]:
    """The function in the page."""
    page = (REPOSITORY / "docs" / "library.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Callable[[Path, str], str]] = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    return names["run"]


def test_the_example(store: Store, scratch: Path) -> None:
    image = scratch / "image.tar"
    image.write_bytes(Archive().file("f", b"x" * 5000).tar)
    assert re.fullmatch(r"example: \d{4,} bytes, \d+ of its own", example()(store.path, str(image)))
    assert store.list() == []
    assert example()(store.path, str(scratch / "missing.tar")).startswith("fetching image timestamp: stat ")


def test_every_name_is_there_and_in_the_page() -> None:
    page = (REPOSITORY / "docs" / "library.md").read_text()
    for name in groot_fast.__all__:
        assert getattr(groot_fast, name) is not None
        assert name == "__version__" or name in page, name
    with pytest.raises(AttributeError):
        _ = groot_fast.nothing


def test_a_name_that_is_no_setting_is_refused() -> None:
    for name, meant in (("stroe", "store"), ("disk_limit_size_bytes", "disk_limit")):
        with pytest.raises(errors.ConfigError, match=f"^there is no setting `{name}`$") as caught:
            Settings({name: "x"})
        assert caught.value.hint == f"did you mean `{meant}`?"
    with pytest.raises(errors.ConfigError, match="^there is no setting `colour`$"):
        Settings(colour="red")
    assert Settings({"store": "/a"}, store="/b").store == "/b"


def test_errors_are_of_one_tree(tmp_path: Path) -> None:
    with pytest.raises(GrootError) as caught:
        Groot(Settings(store=str(tmp_path / "none"))).stats("x")
    assert isinstance(caught.value, errors.ImageNotFound)

"""Sources that the disk refuses something."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_fast._core import Cancel
from groot_fast.config import Settings
from groot_fast.errors import SourceError
from groot_fast.sources.local import LocalSource


def test_a_directory_is_known_by_what_is_in_it_whatever_a_second_look_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x")
    known = LocalSource(str(tmp_path), Settings({}), Cancel()).resolve().chain_ids
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    assert LocalSource(str(tmp_path), Settings({}), Cancel()).resolve().chain_ids == known


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("registry.example:5000/app:v1", "for an image in a registry write docker://registry.example:5000/app:v1"),
        ("registry.example/app", "for an image in a registry write docker://registry.example/app"),
        ("docker:/registry.example/app", "for an image in a registry write docker://registry.example/app"),
        ("docker:host/app", "for an image in a registry write docker://host/app"),
        ("docker:alpine", "for an image of Docker Hub write docker:///alpine"),
        ("alpine", "for an image of Docker Hub write docker:///alpine"),
        ("alpine:3.20", "for an image of Docker Hub write docker:///alpine:3.20"),
        ("localhost/app", "for an image in a registry write docker://localhost/app"),
        ("oci:/srv/layout:v1", "an OCI layout is written oci:///srv/layout:v1"),
        ("image.tar", None),
        ("user:hunter2@registry.example/app", None),
        ("some/directory", None),
        ("/absolute/v1.tar", None),
        ("./a.b/file.tar", None),
    ],
)
def test_a_forgotten_scheme_has_a_hint(argument: str, hint: str | None) -> None:
    with pytest.raises(SourceError, match=r"^fetching image timestamp: stat ") as caught:
        LocalSource(argument, Settings({}), Cancel()).resolve()
    assert caught.value.hint == hint

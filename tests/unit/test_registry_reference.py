"""References and digests: E2 and E12."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_fast._core import parse_digest
from groot_fast.errors import BadImage, SourceError
from groot_fast.sources.registry.reference import Reference, parse_reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("url", "registry", "repository", "target"),
    [
        ("docker:///busybox", "docker.io", "library/busybox", "latest"),
        ("docker:///cloudfoundry/garden:v1.2", "docker.io", "cloudfoundry/garden", "v1.2"),
        ("docker://index.docker.io/busybox", "docker.io", "library/busybox", "latest"),
        ("docker://reg.example:5000/one", "reg.example:5000", "one", "latest"),
        ("docker://reg.example/a/b/c:T_1.x-y", "reg.example", "a/b/c", "T_1.x-y"),
        ("docker://[::1]:5000/a", "[::1]:5000", "a", "latest"),
        (f"docker://127.0.0.1:5000/a@{DIGEST}", "127.0.0.1:5000", "a", DIGEST),
        ("docker://h/a?x=1#y", "h", "a", "latest"),
        ("docker://h/a%2Fb:%31", "h", "a/b", "1"),
        ("docker://h/a.b_c__d---e", "h", "a.b_c__d---e", "latest"),
        ("DOCKER://h/a", "h", "a", "latest"),
    ],
)
def test_good_references(url: str, registry: str, repository: str, target: str) -> None:
    found = parse_reference(url)
    assert (found.registry, found.repository, found.target, found.text) == (registry, repository, target, url)
    assert (found.tag is None) != (found.digest is None)


def test_default_registry_has_another_api_host() -> None:
    assert parse_reference("docker:///busybox").api_host == "registry-1.docker.io"
    assert parse_reference("docker://h:1/busybox").api_host == "h:1"


def test_references_compare_by_value() -> None:
    assert parse_reference("docker:///busybox") == parse_reference("docker:///library/busybox:latest")
    assert parse_reference("docker:///busybox") != parse_reference("docker:///busybox:1")
    assert len({parse_reference("docker:///a"), parse_reference("docker:///a:latest")}) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("docker://h/a//b", "empty component"),
        ("docker://h/Upper/Case:v1", "parsing url failed: invalid reference format: repository name must be lowercase"),
        ("docker://h/" + "a" * 300, "must not be more than 255 characters"),
        (f"docker://h/a@{DIGEST}@{DIGEST}", "more than one @"),
        ("docker://h/a b", "invalid component"),
        ("docker://h/a%20b", "invalid component"),
        ("docker://h/-a", "invalid component"),
        ("docker://-h/a", "invalid registry host"),
        ("docker://user:hunter2@h/a", "user information"),
        ("docker://h/../a", "invalid component"),
        ("docker://h/a/..", "invalid component"),
        ("docker://h/%2e%2e/a", "invalid component"),
        ("docker://h/a___b", "invalid component"),
        ("docker://h/a.-b", "invalid component"),
        ("docker://h/a/", "empty component"),
        ("docker://h", "no repository name"),
        ("docker://", "no repository name"),
        ("docker://h/a:", "invalid tag"),
        ("docker://h/a:.x", "invalid tag"),
        ("docker://h/a:" + "x" * 129, "invalid tag"),
        ("docker://h:0/a", "invalid registry port"),
        ("docker://h:65536/a", "invalid registry port"),
        ("docker://h:/a", "invalid registry port"),
        ("docker://h:²/a", "invalid registry port"),
        ("docker://h..i/a", "invalid registry host"),
        ("docker://[::1/a", "invalid registry address"),
        ("docker://[]/a", "invalid registry address"),
        ("docker://h/é", "invalid component"),
        ("docker://h/%ff", "not valid UTF-8"),
        ("docker://h/a\nb", "invalid control character"),
        ("docker://h/a@md5:00", "invalid digest"),
        ("oci:///a", "not a docker:// URL"),
    ],
)
def test_E12_hostile_references(url: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_reference(url)
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_tag_and_digest_together_have_the_contracts_text() -> None:
    with pytest.raises(SourceError, match=r"^Docker references with both a tag and digest are currently not supported$"):
        parse_reference(f"docker://h/a:v1@{DIGEST}")


def test_bad_escape_has_the_contracts_text() -> None:
    with pytest.raises(SourceError) as caught:
        parse_reference("docker://h/a%^!b")
    assert str(caught.value) == 'parse "docker://h/a%^!b": invalid URL escape "%^!"'


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_source_error(text: str) -> None:
    for url in (text, "docker://" + text, "docker://h/" + text):
        try:
            found = parse_reference(url)
        except SourceError as error:
            # what this interpreter's Unicode does not know yet may be a letter to the core
            assert all(c.isprintable() or unicodedata.category(c) == "Cn" for c in str(error))
        else:
            assert isinstance(found, Reference)
            path = f"/v2/{found.repository}/manifests/{found.target}"
            assert path.isascii()
            assert not set(path) & set(" ?#%\\@")
            assert ".." not in found.repository
            assert "//" not in path


@pytest.mark.parametrize(
    "text",
    [
        "sha256:../../x",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "SHA256:" + "0" * 64,
        "sha512:" + "0" * 128,
        "md5:" + "0" * 32,
        "sha256:" + "0" * 63 + "\n",
        "sha256:" + "0" * 63 + "٣",
        "0" * 71,
        "",
        "sha256:",
    ],
)
def test_E2_hostile_digests(text: str) -> None:
    with pytest.raises(BadImage) as caught:
        parse_digest(text)
    assert str(caught.value).isprintable()


@given(st.text(alphabet="0123456789abcdefABCDEF:sh/.", max_size=80) | st.from_regex(r"sha256:[0-9a-f]{60,68}"))
def test_E2_only_one_spelling_is_accepted(text: str) -> None:
    import re

    if re.fullmatch(r"sha256:[0-9a-f]{64}", text, re.ASCII) and not text.endswith("\n"):
        assert parse_digest(text) == text
    else:
        with pytest.raises(BadImage):
            parse_digest(text)


def test_parsing_a_reference_does_not_load_the_network() -> None:
    program = (
        "import sys; import groot_fast.sources.registry as r; r.parse_reference('docker:///a');"
        "print([m for m in ('aiohttp', 'asyncio', 'dataclasses', 'logging', 'yaml', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    import groot_fast.sources.registry as package

    for name in package.__all__:
        assert getattr(package, name).__module__.startswith(package.__name__)
    with pytest.raises(AttributeError):
        _ = package.no_such_name

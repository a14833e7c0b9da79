"""What sources and documents cite is there: sections and defects of the contract, headings of docs, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FOLDERS = ("python", "rust", "tests", "benchmarks", "loadtests", "docs", "scripts")
CONTRACT = re.compile(r"\b[Cc]ontract, (sections?|defects?)? ?(\d[\d.]*\d|\d)((?:(?:,| and|, and) \d[\d.]*\d|(?:,| and|, and) \d)*)")
HEADING = re.compile(r"docs/(\w+\.md), \"([^\"]+)\"")
FILE = re.compile(r"`((?:python|rust|tests|scripts|benchmarks|loadtests|docs|packaging)/[\w./-]*\w/?)`")
DOCUMENTS = [*REPO.glob("*.md"), *REPO.glob("docs/*.md"), *REPO.glob("benchmarks/*.md"), *REPO.glob("loadtests/*.md")]
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([^)]+))?\)")


def texts() -> Iterator[tuple[str, str]]:
    """Every source and document with its path; comments that go over a line end are on one line."""
    files = [file for folder in FOLDERS for file in (REPO / folder).rglob("*")]
    for file in [*files, *REPO.glob("*.md")]:
        if file.suffix in (".py", ".pyi", ".rs", ".md", ".c") or (file.parent.name == "scripts" and file.is_file()):
            yield str(file.relative_to(REPO)), re.sub(r"\n\s*(?://[/!]?|#)?\s*", " ", file.read_text())


def cited_of_the_contract() -> set[tuple[str, str, str]]:
    """(where, kind, number); without a word for the kind it is a section."""
    return {
        (path, (found[1] or "section").rstrip("s"), number)
        for path, text in texts()
        for found in CONTRACT.finditer(text)
        for number in re.findall(r"\d[\d.]*\d|\d", found[2] + found[3])
    }


def test_sections_of_the_contract() -> None:
    text = (REPO / "docs/contract.md").read_text()
    there = {
        "section": set(re.findall(r"^#+ (\d[\d.]*\d|\d)\.? ", text, re.MULTILINE)),
        "defect": set(re.findall(r"^\| (\d+) \|", text[text.index("### 20.2") : text.index("### 20.3")], re.MULTILINE)),
    }
    cited = cited_of_the_contract()
    assert {(kind, number) for _, kind, number in cited} >= {("section", "9.4"), ("defect", "28")}
    assert {citation for citation in cited if citation[2] not in there[citation[1]]} == set()


def headings(name: str) -> set[str]:
    """Of a document, without their marks."""
    return set(re.findall(r"^#+ (.*)$", (REPO / "docs" / name).read_text(), re.MULTILINE))


def test_headings_of_documents() -> None:
    cited = {(path, *found) for path, text in texts() for found in HEADING.findall(text)}
    assert {heading for _, _, heading in cited} >= {"Accounting", "Calls"}
    assert {citation for citation in cited if citation[2] not in headings(citation[1])} == set()


def anchor(heading: str) -> str:
    """As it is in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", sorted(str(file.relative_to(REPO)) for file in DOCUMENTS))
def test_links_of_documents(document: str) -> None:
    place = REPO / document
    for name, fragment in LINK.findall(place.read_text()):
        target = (place.parent / name) if name else place
        assert target.exists(), name
        if fragment:
            assert fragment in {anchor(line) for line in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)}, f"{name}#{fragment}"


@pytest.mark.parametrize("document", sorted(str(file.relative_to(REPO)) for file in DOCUMENTS))
def test_files_that_documents_name(document: str) -> None:
    assert [name for name in FILE.findall((REPO / document).read_text()) if not (REPO / name).exists()] == []

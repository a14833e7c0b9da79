"""docs/reliability.md names a test for every row of bad inputs, and every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COUNTS = {"A": 24, "B": 11, "C": 15, "D": 7, "E": 12, "F": 15, "G": 10}
ROWS = [f"{part}{number}" for part, count in COUNTS.items() for number in range(1, count + 1)]

# What stands for a row and is named after what it does.
OTHERS = {
    "G1": ["tests/faults/test_kills.py", "tests/faults/test_power_cut.py"],
    "G3": ["tests/integration/test_pull.py::test_fifty_processes_fetch_each_blob_once"],
    "G7": ["tests/integration/test_store.py::test_damaged_records_break_nothing"],
    "G8": ["tests/integration/test_rootless.py::test_nested_subvolumes"],
    "G9": ["tests/integration/test_store.py::test_limit_where_nobody_counts"],
    "G10": ["tests/integration/test_rootless.py::test_mappings_that_are_not_allowed"],
}


def found_tests() -> dict[str, list[tuple[str, str]]]:
    """(file, test) by row; ``test_E_and_F_...`` is named in its cases."""
    found: dict[str, list[tuple[str, str]]] = {row: [] for row in ROWS}
    for path in sorted((REPOSITORY / "tests").glob("*/test_*.py")):
        name = str(path.relative_to(REPOSITORY))
        text = path.read_text()
        for test, row in re.findall(r"^(?:async )?def (test_([A-G]\d+)_\w+)", text, re.MULTILINE):
            found[row].append((name, test))
        for row in dict.fromkeys(re.findall(r'^    "([EF]\d+) [^"]*": ', text, re.MULTILINE)):
            found[row].append((name, "test_E_and_F_hostile_answers"))
    # Rules about images have their tests beside them.
    for path in sorted((REPOSITORY / "rust" / "image" / "src").rglob("*.rs")):
        for test, row in re.findall(r"^ *fn (([a-g]\d+)_\w+)\(\)", path.read_text(), re.MULTILINE):
            found[row.upper()].append((str(path.relative_to(REPOSITORY)), test.removeprefix(f"{row}_")))
    return found


def table() -> str:
    """The table as it has to stand in the document."""
    lines = ["| row | tests |", "| --- | --- |"]
    for row, tests in found_tests().items():
        files: dict[str, list[str]] = {}
        for file, test in tests:
            files.setdefault(file.removeprefix("tests/"), []).append(test.removeprefix(f"test_{row}_").removeprefix("test_"))
        cells = [f"`{file}`: {', '.join(names)}" for file, names in files.items()]
        cells += [f"`{other.removeprefix('tests/')}`" for other in OTHERS.get(row, [])]
        lines.append(f"| {row} | {'; '.join(cells)} |")
    return "\n".join(lines)


def test_every_row_has_a_test() -> None:
    assert [row for row, tests in found_tests().items() if not tests and row not in OTHERS] == []


def test_what_stands_for_rows_is_there() -> None:
    for other in [name for names in OTHERS.values() for name in names]:
        path, _, test = other.partition("::")
        assert f"def {test}" in (REPOSITORY / path).read_text() if test else (REPOSITORY / path).is_file(), other


def test_document_has_the_table() -> None:
    """`python -m pytest` prints the right table when it fails; copy it between the marks."""
    document = (REPOSITORY / "docs" / "reliability.md").read_text()
    between = document.partition("<!-- rows -->\n")[2].partition("\n<!-- end of rows -->")[0]
    assert between == table(), "\n" + table()

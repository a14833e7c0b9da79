"""What mistakes cost: the table of docs/mistakes.md, each row run."""

from __future__ import annotations

import re
from collections.abc import Callable

from fake_registry import FakeRegistry
from support.archive import Archive
from support.command import REPOSITORY, Grootfs, Store
from support.pulls import layer, publish

PAGE = REPOSITORY / "docs" / "mistakes.md"
ROW = re.compile(r"^\| `(?P<call>.+?)` \| (?P<prints>.+?) \| .*\|$", re.M)


def test_the_page_is_true(store: Store, image: Callable[..., str]) -> None:
    layout = image(Archive().file("f", b"x" * 5000)).removeprefix("oci://").removesuffix(":latest")
    store.create(f"oci://{layout}", "c1")
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) == 25
    with FakeRegistry() as registry:
        publish(registry, layer("f"))
        told = {}
        for call, prints in rows:
            words = [word.replace("LAYOUT", layout).replace("REGISTRY", registry.addr) for word in call.split()]
            command = Grootfs() if words[0].startswith("--") else Grootfs("--store", str(store.path))
            done = command.run(*words)
            assert done.code != 0, call
            # Some failures are told twice, on stderr too, as the original does.
            out = re.sub(r"\d+(?=/10 bytes)", "SIZE", done.out).replace(layout, "LAYOUT").replace(registry.addr, "REGISTRY")
            told[call] = (out.strip(), prints.replace(" / hint: ", "\n\nhint: "))
    for call, (said, page) in told.items():
        assert said.split("\n\nNAME:")[0] == page, call

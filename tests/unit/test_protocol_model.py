"""The protocol of create, delete and clean (support/protocol.py): nothing that can happen loses a volume, builds one twice,
shows half of something or stops everybody; and without any one of its rules the explorer finds out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support import protocol
from support.explorer import Ended, Found, Program, State, Violation, World, explore, perform
from support.protocol import RULES, Rules, check, check_end, clean, create, delete, store

ALL: Rules = frozenset()
Scenario = tuple[World, Callable[[Rules], list[Program]], int]


def with_image(layers: str, image_id: str = "old") -> World:
    """A store with an image and its volumes."""
    world = store(**{layer: layers[: i + 1] for i, layer in enumerate(layers)})
    for step in (("make", f"images/{image_id}", ""), ("write", f"records/{image_id}", layers)):
        world, _ = perform(world, 0, step)
    return perform(world, 0, ("snapshot", f"volumes/{layers[-1]}", f"images/{image_id}/rootfs"))[0]


def abandoned(image_id: str) -> World:
    """A store in which a create died right before its commit."""
    world = store(A="A", B="AB")
    for step in (("make", f"images/{image_id}", ""), ("write", f"records/{image_id}", "AB")):
        world, _ = perform(world, 0, step)
    return world


SCENARIOS: dict[str, Scenario] = {
    "two cold creates": (store(), lambda w: [create("AB", "i", w), create("AB", "j", w)], 0),
    "cold create, other image on its base": (store(), lambda w: [create("AB", "i", w), create("AC", "j", w)], 0),
    "cold create that dies, and another": (store(), lambda w: [create("A", "i", w), create("A", "j", w)], 1),
    "cold create and clean": (store(), lambda w: [create("AB", "i", w), clean(w)], 1),
    "warm create and clean": (store(A="A", B="AB"), lambda w: [create("AB", "i", w), clean(w)], 1),
    "create on an existing base and clean": (store(A="A", B="AB"), lambda w: [create("ABC", "i", w), clean(w)], 0),
    "two warm creates and clean": (store(A="A"), lambda w: [create("A", "i", w), create("A", "j", w), clean(w)], 0),
    "create and clean after an abandoned one": (store(A="A"), lambda w: [create("A", "i", w), clean(w), clean(w)], 0),
    "two creates of one id": (store(A="A"), lambda w: [create("A", "i", w), create("A", "i", w)], 1),
    "create of an id that the dead left, and clean": (abandoned("i"), lambda w: [create("AB", "i", w), clean(w)], 0),
    "delete and clean": (with_image("AB"), lambda w: [delete("old", w), clean(w)], 1),
    "delete, create of the same id, clean": (with_image("A"), lambda w: [delete("old", w), create("A", "old", w), clean(w)], 0),
    "two deletes and a create": (with_image("A"), lambda w: [delete("old", w), delete("old", w), create("A", "i", w)], 0),
    "delete of an id that is being created": (store(A="A"), lambda w: [create("A", "i", w), delete("i", w)], 1),
    "two deletes and a create of the same id": (with_image("A"), lambda w: [delete("old", w), delete("old", w), create("A", "old", w)], 0),
    "create, and two cleans after each other": (store(), lambda w: [create("A", "i", w), clean(w), clean(w)], 0),
}


def go(name: str, without: Rules) -> Found:
    world, make, deaths = SCENARIOS[name]
    count = len(make(without))
    programs = [lambda i=i: make(without)[i] for i in range(count)]
    found = explore(world, programs, check, deaths=deaths)
    for end in found.ends:
        check_end(end, _reported(world, end, make(without)))
    return found


def _reported(world: World, end: State, programs: list[Program]) -> dict[str, tuple[str, str]]:
    """Images whose creation was reported and that nobody has deleted, or died while deleting; see `check_end`."""
    trees = {image_id: world.content(f"images/{image_id}/rootfs") for image_id in world.below("images")}
    living = {image_id: (str(tree), str(tree)) for image_id, tree in trees.items() if tree is not None}
    given = [(program.gi_code.co_name, program.gi_frame.f_locals.get("image_id", ""), program.gi_frame.f_locals) for program in programs]
    contested = {image_id for _, image_id, _ in given if [other for _, other, _ in given].count(image_id) > 1 or image_id in living}
    for place, (kind, image_id, arguments) in zip(end.processes, given, strict=True):
        assert isinstance(place, Ended)
        if kind != "create" or place.died:
            continue
        if place.result != "exists":
            living[image_id] = (arguments["image"], str(place.result))
        elif image_id not in contested:
            raise Violation(f"create of {image_id} says that it exists")
    for place, (kind, image_id, _) in zip(end.processes, given, strict=True):
        if kind == "delete" and place.result != "not found":  # type: ignore[union-attr]
            living.pop(image_id, None)
    return living


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_bad_can_happen(name: str) -> None:
    found = go(name, ALL)
    assert found.ends and found.states > 50


# Which scenario shows what a rule is for, and what the explorer says.
NEEDED = {
    "identity": ("two deletes and a create of the same id", "image old has the layers A and the record None"),
    "recheck": ("two cold creates", "B-incomplete-. is renamed to volumes/B, which is there already"),
    "base lock": ("create on an existing base and clean", "snapshot of volumes/B"),
    "lower locks": ("create on an existing base and clean", "volume A of the living image"),
    "chain lock": ("two cold creates", "double build"),
    "top down": ("two cold creates", "deadlock|snapshot|record"),
    "publish whole": ("cold create that dies, and another", "half-visible volume"),
    "clean locks": ("cold create and clean", "went away while somebody was at work in it"),
    "clean looks again": ("warm create and clean", "volume . of the living image"),
    "record first": ("warm create and clean", "has the layers AB and the record None"),
    "held directory": ("create of an id that the dead left, and clean", "exists|snapshot|directory|record"),
    "tree first": ("delete and clean", "has the layers AB and the record None"),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_needed(rule: str) -> None:
    scenario, message = NEEDED[rule]
    with pytest.raises(Violation, match=message):
        go(scenario, frozenset([rule]))


NAMED = re.findall(
    r"`([a-z]\w*(?:\.\w+)+)`", " ".join([*RULES.values(), *(part.__doc__ or "" for part in vars(protocol).values() if callable(part))])
)
REPO = Path(__file__).resolve().parents[2]


def sources_of(module: str) -> str:
    """The text of the modules of this name, in either language."""
    files = [*(REPO / "python").rglob("*.py"), *(REPO / "rust").rglob("*.rs")]
    return "\n".join(file.read_text() for file in files if module in (file.stem, file.parent.name))


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_what_the_model_names_is_there(name: str) -> None:
    """A model of code that was replaced proves nothing."""
    module, *parts = name.split(".")
    text = sources_of(module)
    for part in parts:
        assert re.search(rf"^\s*(?:pub(?:\(\w+\))? )?(?:\w+ )*(?:def|class|fn|struct|enum|trait) {part}\b", text, re.MULTILINE), name


def test_every_rule_names_its_code() -> None:
    assert [rule for rule, text in RULES.items() if not re.search(r"\(`\w+\.", text)] == []
    assert len(set(NAMED)) > 12

"""An explicit-state explorer: every interleaving of a few small processes on a small file system, with deaths at every step.

A process is a generator. It yields operations on the world, one atomic step each, and gets their results back; what it does
next depends on nothing else. So its state is where its frames stand and what their variables hold, and what it does from
there is computed once. The world is a value: names, open files and their locks, as the kernel has them (a lock belongs to
an open file, stays with the inode when the name goes, and ends with the process).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from types import FrameType
from typing import Any, NamedTuple

Step = tuple[Any, ...]
Program = Generator[Step, Any, Any]


class Violation(AssertionError):
    """Something that must never happen, with the steps that lead there."""


class World(NamedTuple):
    """``names``: path -> (inode, content). ``files``: (process, descriptor) -> inode. ``locks``: (process, descriptor) ->
    exclusive. All as sorted tuples, so that equal worlds are equal values."""

    names: tuple[tuple[str, tuple[int, Hashable]], ...] = ()
    files: tuple[tuple[tuple[int, int], int], ...] = ()
    locks: tuple[tuple[tuple[int, int], bool], ...] = ()

    def content(self, path: str) -> Hashable:
        """What is at a path; None where nothing is."""
        return dict(self.names).get(path, (0, None))[1]

    def below(self, folder: str) -> list[str]:
        """Names directly in a directory, sorted."""
        inside = (path.removeprefix(folder + "/") for path, _ in self.names if path.startswith(folder + "/"))
        return sorted(name for name in inside if "/" not in name)


def freeze(names: dict[str, Any], files: dict[Any, int], locks: dict[Any, bool]) -> World:
    """Dictionaries as a world."""
    return World(tuple(sorted(names.items(), key=lambda item: item[0])), tuple(sorted(files.items())), tuple(sorted(locks.items())))


def perform(world: World, pid: int, step: Step) -> tuple[World, Any]:
    """One atomic step. Raises Violation where the real call would fail in a way that nobody expects."""
    names, files, locks = dict(world.names), dict(world.files), dict(world.locks)
    result: Any = None
    match step:
        case ("exists", path):
            result = path in names
        case ("read", path):
            result = world.content(path)
        case ("list", folder):
            result = tuple(world.below(folder))
        case ("make", path, content):  # fails where something is
            result = path not in names
            if result:
                names[path] = (_fresh(names, files), content)
        case ("write", path, content):  # replaces atomically
            names[path] = (_fresh(names, files), content)
        case ("fill", path, content):  # the same file gets its content
            if path not in names:
                raise Violation(f"{path} went away while somebody was at work in it")
            names[path] = (names[path][0], content)
        case ("remove", path):
            result = names.pop(path, None) is not None
        case ("rename", old, new):
            result = old in names
            if result:
                if new in names:
                    raise Violation(f"{old} is renamed to {new}, which is there already")
                names[new] = names.pop(old)
        case ("rename_new", old, new):  # fails where something is
            result = old in names and new not in names
            if result:
                names[new] = names.pop(old)
        case ("snapshot", source, path):
            content = world.content(source)
            if content is None or content == "partial":
                raise Violation(f"snapshot of {source}, which is {'not there' if content is None else 'not complete'}")
            names[path] = (_fresh(names, files), content)
        case ("open", path, create):
            if path not in names and create:
                names[path] = (_fresh(names, files), "")
            if path in names:
                result = next(fd for fd in range(99) if (pid, fd) not in files)
                files[pid, result] = names[path][0]
        case ("flock", fd, exclusive):
            others = {key: held for key, held in locks.items() if files[key] == files[pid, fd] and key != (pid, fd)}
            result = not (others if exclusive else any(others.values()))
            if result:
                locks[pid, fd] = exclusive
        case ("is_at", fd, path):
            result = path in names and names[path][0] == files[pid, fd]
        case ("close", fd):
            del files[pid, fd]
            locks.pop((pid, fd), None)
        case _:
            raise AssertionError(step)
    return freeze(names, files, locks), result


def die(world: World, pid: int) -> World:
    """The process is gone: its files are closed and its locks free."""
    files = {key: inode for key, inode in world.files if key[0] != pid}
    return freeze(dict(world.names), files, {key: held for key, held in world.locks if key[0] != pid})


def _fresh(names: dict[str, Any], files: dict[Any, int]) -> int:
    used = {inode for inode, _ in names.values()} | set(files.values())
    return next(inode for inode in range(1, 999) if inode not in used)


class Ended(NamedTuple):
    """A process that came to its end, and what it returned; ``died`` when it was killed."""

    result: Hashable
    died: bool = False


class _Automaton:
    """A program as states and transitions, found by running it; equal frames are one state."""

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make = make
        self._histories: dict[Hashable, tuple[Any, ...]] = {}
        self._steps: dict[Hashable, Step] = {}
        self._next: dict[tuple[Hashable, Hashable], Hashable] = {}
        self.start = self._run(())

    def step(self, state: Hashable) -> Step:
        return self._steps[state]

    def after(self, state: Hashable, result: Hashable) -> Hashable:
        key = (state, result)
        if key not in self._next:
            self._next[key] = self._run((*self._histories[state], result))
        return self._next[key]

    def _run(self, history: tuple[Any, ...]) -> Hashable:
        program = self._make()
        try:
            step = next(program)
            for result in history:
                step = program.send(result)
        except StopIteration as end:
            return Ended(end.value)
        state = tuple(_frames(program))
        if state not in self._histories or len(history) < len(self._histories[state]):
            self._histories[state] = history
        self._steps[state] = step
        program.close()
        return state


def _frames(program: Program | None) -> Iterator[Hashable]:
    while program is not None:
        frame: FrameType | None = program.gi_frame
        assert frame is not None
        values = {name: value for name, value in frame.f_locals.items() if not callable(value)}
        yield frame.f_code.co_name, frame.f_lasti, tuple(sorted((name, _value(value)) for name, value in values.items()))
        program = program.gi_yieldfrom


def _value(value: object) -> str:
    return repr(sorted(value)) if isinstance(value, set) else repr(value)


class State(NamedTuple):
    """A world, where each process stands, and how many may still die."""

    world: World
    processes: tuple[Hashable, ...]
    deaths: int


class Found(NamedTuple):
    """What an exploration saw."""

    states: int
    steps: int
    ends: list[State]


def explore(
    world: World,
    programs: list[Callable[[], Program]],
    check: Callable[[State], None],
    *,
    deaths: int = 0,
) -> Found:
    """Walk through everything that can happen, breadth first. ``check`` looks at every state and raises Violation.

    Raises Violation, with the shortest way to it, also where some state has no way to an end any more (deadlock). ``deaths``
    is how many of the processes may be killed, each at any step.
    """
    automata = [_Automaton(program) for program in programs]
    worlds, places = _Numbers(), _Numbers()
    known: dict[tuple[int, int, Step], tuple[int, Hashable]] = {}

    def move(number: int, pid: int, step: Step) -> tuple[int, Hashable]:
        if (number, pid, step) not in known:
            after, result = perform(worlds.value(number), pid, step)
            known[number, pid, step] = (worlds.number(after), result)
        return known[number, pid, step]

    def whole(state: _Packed) -> State:
        return State(worlds.value(state[0]), tuple(map(places.value, state[2:])), state[1])

    first = (worlds.number(world), deaths, *(places.number(automaton.start) for automaton in automata))
    came: dict[_Packed, tuple[_Packed, str] | None] = {first: None}
    before: dict[_Packed, list[_Packed]] = {}
    todo, ends, steps = [first], [], 0
    for state in todo:
        running = False
        for pid, number in enumerate(state[2:]):
            place = places.value(number)
            if isinstance(place, Ended):
                continue
            running = True
            step = automata[pid].step(place)
            try:
                after, result = move(state[0], pid, step)
            except Violation as violation:
                raise Violation(f"{violation}\n{_way(came, state)}\n{pid}: {step}") from None
            successors = [(after, state[1], automata[pid].after(place, result), f"{pid}: {step} = {result}")]
            if state[1]:
                successors.append((state[0], state[1] - 1, Ended(None, died=True), f"{pid}: dies before {step}"))
            for new_world, left, new_place, text in successors:
                steps += 1
                if isinstance(new_place, Ended):
                    new_world = worlds.number(die(worlds.value(new_world), pid))
                successor = (new_world, left, *state[2 : 2 + pid], places.number(new_place), *state[3 + pid :])
                before.setdefault(successor, []).append(state)
                if successor in came:
                    continue
                came[successor] = (state, text)
                try:
                    check(whole(successor))
                except Violation as violation:
                    raise Violation(f"{violation}\n{_way(came, successor)}") from None
                todo.append(successor)
        if not running:
            ends.append(state)
    _insist_on_ends(came, before, ends)
    return Found(len(todo), steps, [whole(end) for end in ends])


_Packed = tuple[int, ...]
"""A state as numbers: world, deaths left, where each process stands."""


class _Numbers:
    """Values as small numbers: hashing a world once is enough."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Hashable) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self._values)
            self._values.append(value)
        return self._numbers[value]

    def value(self, number: int) -> Any:
        return self._values[number]


def _insist_on_ends(came: dict[_Packed, tuple[_Packed, str] | None], before: dict[_Packed, list[_Packed]], ends: list[_Packed]) -> None:
    reached, todo = set(ends), list(ends)
    while todo:
        for earlier in before.get(todo.pop(), []):
            if earlier not in reached:
                reached.add(earlier)
                todo.append(earlier)
    for state in came:
        if state not in reached:
            raise Violation(f"deadlock: nobody can end any more\n{_way(came, state)}")


def _way(came: dict[_Packed, tuple[_Packed, str] | None], state: _Packed) -> str:
    lines = []
    while (link := came[state]) is not None:
        state, text = link
        lines.append(text)
    return "\n".join(reversed(lines))


def run(world: World, pid: int, program: Program) -> tuple[World, Any]:
    """Run one process alone to its end."""
    result: Any = None
    try:
        step = next(program)
        while True:
            world, result = perform(world, pid, step)
            step = program.send(result)
    except StopIteration as end:
        return die(world, pid), end.value

"""A bounded number of places, taken in the order in which they were asked for."""

from __future__ import annotations

import threading
from concurrent.futures import Future

Place = Future[None]
"""One's place, or that one is waiting for it: done when it is one's own."""


class Places:
    """``most`` places. Usable from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._taken: set[Place] = set()
        # In the order in which they came.
        self._waiting: dict[Place, None] = {}

    @property
    def taken(self) -> int:
        """How many have one."""
        return len(self._taken)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def ask(self) -> Place:
        """Wait for a place. Whoever asks has to `leave`, also before it is theirs."""
        place = Place()
        with self._lock:
            self._waiting[place] = None
            self._go_on()
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, or wait no longer. Harmless when already done."""
        with self._lock:
            self._taken.discard(place)
            self._waiting.pop(place, None)
            self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._taken) < self._most:
            place = next(iter(self._waiting))
            del self._waiting[place]
            self._taken.add(place)
            place.set_result(None)

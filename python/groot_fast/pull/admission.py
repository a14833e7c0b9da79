"""Leave to pull. A process of its own just pulls; a server bounds how many do at once."""

from __future__ import annotations


class Admission:
    """Everybody may. What a server does instead is `groot_fast.server.operations`.

    A context manager around the building of missing volumes, entered when their locks are held.
    """

    def step_aside(self) -> None:
        """From here on this create may wait for a registry, or for somebody who builds the same volumes: it is no longer one
        of the quick ones that others should queue behind."""

    def built(self, content: int) -> None:
        """A volume with so many bytes of file content was built."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

"""Log lines as Cloud Foundry's lager writes them (contract, section 18.3): made in the core, for the native commands too.

Not the standard library's ``logging``: one form of line, in one place, for both languages.
"""

from __future__ import annotations

from groot_fast._core import Logger, Sink, open_sink

__all__ = ["Logger", "Sink", "open_sink"]

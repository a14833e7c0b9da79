"""What a run tells about itself: log lines (`lager`) and metrics (`metrics`), both made in the core, traces (`traces`), progress
on a terminal (`progress`)."""

NANOS, BYTES, COUNT = "nanos", "bytes", ""
"""Units of what is measured."""

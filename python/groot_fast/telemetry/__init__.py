"""What a run tells about itself: log lines (`lager`), metrics (`metrics` the interface, `dropsonde` for metron,
`prometheus` for a file), traces (`traces`), progress on a terminal (`progress`)."""

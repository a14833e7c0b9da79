"""What a run tells about itself: log lines (`lager`), metrics (`dropsonde` for metron and the interface,
`prometheus` for a file), traces (`traces`), progress on a terminal (`progress`)."""

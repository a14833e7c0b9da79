"""What a run tells about itself: log lines (`lager`), metrics (`dropsonde`), progress on a terminal (`progress`)."""

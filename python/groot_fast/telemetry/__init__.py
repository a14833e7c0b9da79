"""What a run tells about itself: log lines (`lager`), progress on a terminal (`progress`)."""

"""What a run tells about itself: log lines (`lager`)."""

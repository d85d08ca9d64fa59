"""Where an experiment runs. Knows experiments by name only."""

"""A trained encoder as a file that runs without crrl: its graph, and whether that agrees with crrl."""

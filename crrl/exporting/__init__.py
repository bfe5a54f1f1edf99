"""A trained encoder as a file that runs without crrl: its graph, and the check that it agrees with crrl."""

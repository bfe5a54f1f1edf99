"""What people look at: the report of runs, and drawings of clips."""

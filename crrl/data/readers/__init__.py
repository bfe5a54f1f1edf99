"""Foreign files to clips."""

"""Foreign files to clips: a module for each data set and format, and what several of them read by."""

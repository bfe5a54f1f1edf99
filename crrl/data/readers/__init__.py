"""Readers from foreign files to clips: a module for each data set and format, and what several of them share."""

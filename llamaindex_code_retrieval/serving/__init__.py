"""Serve the indexes of several repositories to agents and people, by one process with one model."""

"""Rank nodes: what a question asks for, what fits it, and how rankings are merged."""

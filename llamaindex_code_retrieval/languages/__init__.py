"""Programming languages: a table of what is known of each, and the syntax of source code."""

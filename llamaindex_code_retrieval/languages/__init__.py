"""Programming languages: extensions and grammars, definitions in source code, and its division into spans."""

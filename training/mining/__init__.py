"""Mine training pairs from source code: which files, which functions, which descriptions, under which licence."""

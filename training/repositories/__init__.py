"""Read repositories for training: source files, doc comments and commits, and which of them to leave out."""

"""Find the right code for a question, inside LlamaIndex."""

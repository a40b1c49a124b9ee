"""Training: makes the adapters, rerankers and query encoders that the runtime loads."""

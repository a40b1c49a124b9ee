"""Evaluation of chats about repositories: questions, the systems that answer them, and what is measured."""

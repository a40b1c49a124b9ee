"""Transformers as graphs of OpenVINO operations, which a CPU runs without torch and transformers."""

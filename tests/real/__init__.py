"""Tests of ollamux against a real ollama."""

"""Data that the project holds itself."""

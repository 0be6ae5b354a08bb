"""Transformer Katas: the tool that grades, explains and keeps the journey."""

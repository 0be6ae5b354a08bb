"""Ends the process without a trace while it is imported."""
import os

os._exit(0)

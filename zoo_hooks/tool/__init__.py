"""What runs only when a person asks: nothing of a user's process imports it."""

NOT_HERE = """
import sys
sys.path[:] = filter(None, sys.path)
"""
"""How code for another interpreter begins: nothing of the current folder is run, which -c makes possible."""

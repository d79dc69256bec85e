"""The command line. No module that runs in the processes of users imports it."""

NOT_HERE = """
import sys
sys.path[:] = filter(None, sys.path)
"""
"""The first lines of code for another interpreter: with -c, Python would import from the current folder."""

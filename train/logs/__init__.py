"""The curves of a run as one page.

Reads only what a run has logged.
"""

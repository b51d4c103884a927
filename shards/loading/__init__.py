"""Executes an epoch plan: reads ahead, decodes, collates, and resumes exactly.

Knows no model.
"""

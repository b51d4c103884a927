"""What a run will do and need, before a GPU is rented.

Trains nothing.
"""

"""The commands of `vchat-prep`, one file each: flags and printing only.

Holds no logic.
"""

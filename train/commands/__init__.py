"""The commands of `vchat-train`, one file each: flags and printing only.

Holds no logic.
"""

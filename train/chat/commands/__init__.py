"""The commands of `vchat-chat`, one file each: flags and printing only.

Holds no logic.
"""

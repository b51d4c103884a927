"""The commands of `vchat-shards`, one file each: flags and printing only.

Holds no logic.
"""

"""The commands of `vchat-train`, one file each, named as the command: flags and printing only.

`main.py` lists them and imports one when it runs; `options.py` has the flags that several share.
Must not hold logic: what a command computes is in its room.
"""

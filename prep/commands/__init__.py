"""The commands of `vchat-prep`, one file each, named as the command: flags and printing only.

`main` lists them, `recipe_options` holds the flags of `build` and `plan`, `summaries` what several
print. Must not hold logic: that is in the room a command calls.
"""

"""Questions answered by a checkpoint, and their scores.

Stands on chat, which never imports it.
"""

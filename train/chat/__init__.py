"""Chat: a session with its cache, behind a terminal, a web page and an HTTP endpoint.

The model offers only "extend this cache by these ids and pixels".
"""

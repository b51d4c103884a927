"""Operations and bytes of a model: what a step costs.

Knows no run.
"""

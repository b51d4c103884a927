"""One self-contained page of dialogues with their pictures. The HTML and CSS lie beside it.

Offers `write_page`. Knows no plan and no training run.
"""

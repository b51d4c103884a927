"""One self-contained page of dialogues with their pictures. The HTML and CSS lie beside it."""

"""The HTML pages: how a template is found and filled, and the style that all pages share.

A page is `NAME.html` beside the module that fills it. It extends `base/page.html`, includes its own
`NAME.css` in the block `style`, and fills the block `body`. The result is one file that loads
nothing: the base's content security policy allows inline styles and `data:` images only, and a page
that has a script says so in the block `policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2


def load_page(
    file: Path, *, filters: Mapping[str, Callable[..., object]] | None = None
) -> jinja2.Template:
    """Load a page's template. Values are escaped, and an undefined name is an error.

    Args:
        file: The template; it may include files of its folder, and of `base/`.
        filters: Functions that the template applies to values, by name.
    """
    base = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.FileSystemLoader(file.parent), jinja2.PrefixLoader({"base": base})]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters or {})
    return environment.get_template(file.name)

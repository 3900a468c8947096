"""Pages that need nothing else: templates filled once, every value escaped."""

from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, **values: Any) -> str:
    r"""A template file filled with values.

    Text is escaped for HTML unless it is `markupsafe.Markup`; ``{{ value | tojson }}`` is safe inside a ``<script>``:
    ``<``, ``>``, ``&`` and everything beyond ASCII are written as ``\uXXXX``. A name that the template uses and nobody
    gives is an error, and so is a number that JSON does not have.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # The order of a dictionary is kept: what is first is shown first.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    return environment.get_template(template.name).render(values)

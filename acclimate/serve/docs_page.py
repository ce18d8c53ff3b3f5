"""The page at ``/docs``: the OpenAPI description as plain HTML, which loads nothing."""

from collections.abc import Mapping
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ info.title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; }
code { font-size: .95em; overflow-wrap: anywhere; }
section { border-top: 1px solid #8885; padding: .3rem 0 .8rem; }
h3 { margin: .6rem 0 .2rem; font-size: 1rem; } h3 b { display: inline-block; min-width: 4.5em; }
p { margin: .3rem 0; }
</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.summary }} The same description for programs is
<a href="openapi.json">openapi.json</a>.</p>
{% for path, methods in paths.items() %}{% for method, about in methods.items() %}
<section><h3><b>{{ method.upper() }}</b> <code>{{ path }}</code></h3>
{% for paragraph in about.get("description", "").split("\\n\\n") %}<p>{{ paragraph }}</p>
{% endfor %}
{% for each in about.get("parameters", []) if each.in == "query" %}
<p>Parameter <code>{{ each.name }}</code>{% if each.schema.default is defined %},
by default <code>{{ each.schema.default }}</code>{% endif %}.</p>{% endfor %}
{% if about.requestBody %}<p>Body:
{% for kind in about.requestBody.content %}<code>{{ kind }}</code>
{%- if not loop.last %}, {% endif %}{% endfor %}.</p>{% endif %}
</section>{% endfor %}{% endfor %}
</body></html>
"""


def docs_page(description: Mapping[str, Any]) -> str:
    """The page of a description.

    ```python
    html = docs_page(app.openapi())
    ```
    """
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_PAGE).render(**description)

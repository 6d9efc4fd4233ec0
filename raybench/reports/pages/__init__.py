"""The report as HTML pages that work offline: content from a store, Jinja2 templates, own scripts, inlined data."""

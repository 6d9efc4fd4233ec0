"""Vector drawings as data, and their writers: SVG for pages and files, PDF, PNG. No plotting library."""

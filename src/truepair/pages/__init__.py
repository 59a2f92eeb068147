"""Self-contained pages and inline SVG charts."""

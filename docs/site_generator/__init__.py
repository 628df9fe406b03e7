"""Generates the pages of the documentation site that follow from the code, the claims and the committed results.

``docs/hooks.py`` calls these modules while MkDocs builds the site. Each module returns Markdown and writes no file.
"""

"""Numbers to Markdown, LaTeX, CSV, figures and one HTML page.

Imports analysis; html imports claims, memory and peers too.
"""

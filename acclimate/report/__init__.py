"""Reports of an evaluation: tables, figures, the page and pictures."""

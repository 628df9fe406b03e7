"""Group of *When Parts Are Greater Than Sums*; its figures and tables are items of the study ``components``."""

from __future__ import annotations

from icl_lens.studies.group import Group

GROUP = Group(package=__package__, paper=True, order=2, title="Components and their re-weighting")

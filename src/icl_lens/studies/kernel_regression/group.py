"""Group of the studies of *In-context learning as kernel regression* (Han et al., TMLR 2025)."""

from __future__ import annotations

from icl_lens.studies.group import Group

GROUP = Group(package=__package__, paper=True, order=1, title="In-context learning as kernel regression")

"""Group of Yousefi et al. (2024); its figures are items of the study ``representation_change``."""

from __future__ import annotations

from icl_lens.studies.group import Group

GROUP = Group(package=__package__, paper=True, order=3, title="How representations and attention change")

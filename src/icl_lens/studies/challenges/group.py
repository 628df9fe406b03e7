"""Group of the studies that test objections to *Label Words are Anchors*; each study names the papers that it follows."""

from __future__ import annotations

from icl_lens.studies.group import Group

GROUP = Group(package=__package__, paper=True, order=4, title="Challenges to label words as anchors")

"""The report and the published page: claims, figures, tables, walks and lineage."""

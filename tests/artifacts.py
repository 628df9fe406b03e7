"""Tables by the name of their kind, for tests: the registry knows the schema."""

from icl_lens.artifacts import parquet, provenance
from icl_lens.studies import registry

SCHEMAS = {schema.kind: schema for schema in registry.schemas()}


def read(path, kind):
    """A table of a kind, and its metadata."""
    return parquet.read(path, SCHEMAS[kind])


def write(path, table, metadata):
    """Write a table of the kind that its metadata names."""
    parquet.write(path, table, SCHEMAS[metadata["schema"]], metadata)


def describe(kind, module, inputs, settings, seeds, observed=None, **more):
    """The metadata of a table that one module made."""
    return provenance.describe(SCHEMAS[kind], [module], inputs, settings, seeds, observed, **more)

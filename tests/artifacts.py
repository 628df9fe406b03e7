"""Reading and writing of tables by the name of their kind, for tests. The registry provides the schema."""

from icl_lens.artifacts import parquet, provenance
from icl_lens.artifacts.schema import DEMONSTRATIONS, QUERY
from icl_lens.studies import registry

SCHEMAS = {schema.kind: schema for schema in registry.schemas()}


def read(path, kind):
    """Read a table of a kind, and its metadata."""
    return parquet.read(path, SCHEMAS[kind])


def write(path, table, metadata):
    """Write a table of the kind named in its metadata.

    A study table without columns for them gets distinct texts, and the same demonstrations for all prompts of a seed.
    """
    schema = SCHEMAS[metadata["schema"]]
    if QUERY in schema.columns and schema.stage == "studies" and QUERY not in table:
        table = table.assign(**{QUERY: table["prompt_id"], DEMONSTRATIONS: 0})
    parquet.write(path, table, schema, metadata)


def describe(kind, module, inputs, settings, seeds, observed=None, **more):
    """Build the metadata of a table that was produced by one module."""
    return provenance.describe(SCHEMAS[kind], [module], inputs, settings, seeds, observed, **more)


def saliency_columns(s_wp, s_pq, s_ww):
    """Return the columns of a row of a saliency table, of a model with neither windows nor a BOS token."""
    means = {"s_wp": s_wp, "s_pq": s_pq, "s_ww": s_ww}
    return {**means, **{f"{name}_visible": value for name, value in means.items()}, "s_wp_bos": 0.0, "s_wp_no_bos": s_wp}

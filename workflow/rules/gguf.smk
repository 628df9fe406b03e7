# GGUF files: each is converted once into a folder that studies read like any other model folder.
#
# As in fetch.smk, the output is the record next to the files, because Snakemake deletes the outputs of a failed job. Files
# whose source has not changed are not converted again. This rule has no `code=`, so that an edit of the package does not
# convert gigabytes again.


localrules:
    fetch_gguf,


rule fetch_gguf:
    output:
        f"{CONFIG.downloads}/gguf/{{source}}/{{place}}/{{file}}/{RECORD}",
    log:
        "<logs>/fetch/gguf/{source}/{place}/{file}.log",
    wildcard_constraints:
        file="[^/]+",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        source=lambda wildcards, output: fetched_gguf_options(output[0]),
    message:
        "Fetching {wildcards.file} of {wildcards.source} ({wildcards.place}); progress in {log}"
    shell:
        "icl-lens fetch-model {params.source} --out {output:q} 2> {log:q}"


rule convert_gguf:
    input:
        lambda wildcards: gguf_inputs(gguf_folder(wildcards)),
    output:
        f"{CONFIG.downloads}/gguf/{{source}}/{{place}}/{{file}}/{fetch.CONVERTED}/{converted.RECORD}",
    log:
        "<logs>/gguf/{source}/{place}/{file}.log",
    wildcard_constraints:
        file="[^/]+",
    conda:
        "../../envs/gguf.yaml"
    threads: 1
    resources:
        mem_mb=conversion_memory,
        runtime=cluster_only(120),
    params:
        source=lambda wildcards: gguf_options(gguf_folder(wildcards)),
        content=lambda wildcards: gguf_content(gguf_folder(wildcards)),
    message:
        "Converting {wildcards.file} to float32 weights; progress in {log}"
    shell:
        "icl-lens convert-gguf {params.source} --out {output:q} 2> {log:q}"

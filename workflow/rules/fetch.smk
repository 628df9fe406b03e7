# Downloads from the Hub. Only these rules use the network. They run on the machine that runs Snakemake itself.
#
# The output is the record next to the files, not the files themselves. Snakemake deletes the outputs of a failed job, and the
# files must be kept to resume an interrupted download. These rules have no `code=`, so that an edit of the package does not
# fetch gigabytes again and a folder copied from another machine is accepted unchanged.


localrules:
    fetch_model,
    fetch_dataset,


rule fetch_model:
    output:
        f"{CONFIG.downloads}/models/{{hub}}/{{revision}}/{RECORD}",
    log:
        "<logs>/fetch/models/{hub}/{revision}.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        source=lambda wildcards, output: fetched_model_options(output[0]),
    message:
        "Fetching {wildcards.hub} ({wildcards.revision}); progress in {log}"
    shell:
        "icl-lens fetch-model {params.source} --out {output:q} 2> {log:q}"


rule fetch_dataset:
    output:
        f"{CONFIG.downloads}/datasets/{{hub}}/{{revision}}/{{config}}/{RECORD}",
    log:
        "<logs>/fetch/datasets/{hub}/{revision}/{config}.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        source=lambda wildcards, output: fetched_dataset_options(output[0]),
    message:
        "Fetching {wildcards.hub} ({wildcards.config}, {wildcards.revision}); progress in {log}"
    shell:
        "icl-lens fetch-dataset {params.source} --out {output:q} 2> {log:q}"

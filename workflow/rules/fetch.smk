# What comes from the hub: the only rules that use the network, and they run where Snakemake itself runs.
#
# The output is the record beside the files: Snakemake deletes the outputs of a failed job, and the files must stay, so that
# an interrupted download goes on. There is no `code=`: an edit of the package must not fetch gigabytes again, and a folder that
# was filled on another machine is taken as it is.


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
        "Fetching {wildcards.hub} ({wildcards.revision}); {log} says how far it is"
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
        "Fetching {wildcards.hub} ({wildcards.config}, {wildcards.revision}); {log} says how far it is"
    shell:
        "icl-lens fetch-dataset {params.source} --out {output:q} 2> {log:q}"

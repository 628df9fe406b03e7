# Texts and labels of one task: built-in, read from files, or read from a data set fetched from the Hub.


localrules:
    corpora,


rule corpora:
    input:
        files=lambda wildcards: corpus_inputs(wildcards.task),
    output:
        "<results>/corpora/{task}.parquet",
    log:
        "<logs>/corpora/{task}.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        code=lambda wildcards: code_of(
            corpus_module(wildcards.task),
            "icl_lens.corpora.duplicates",
            "icl_lens.corpora.shuffling",
        ),
        definition=lambda wildcards: definition_option(wildcards.task),
        source=lambda wildcards: corpus_options(wildcards.task),
        content=lambda wildcards: corpus_content(wildcards.task),
    message:
        "Reading or generating texts of {wildcards.task}"
    shell:
        "icl-lens corpora --task {wildcards.task} {params.definition} {params.source} --out {output:q} 2> {log:q}"

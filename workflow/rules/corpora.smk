# Texts and labels of one task: generated here, or read from the original files.


rule corpora:
    input:
        files=lambda wildcards: data_files(wildcards.task).values(),
        code=source_files(f"icl_lens.corpora.{CONFIG.data.source}"),
    output:
        "<results>/corpora/{task}.parquet",
    log:
        "<logs>/corpora/{task}.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        source=lambda wildcards: corpus_options(wildcards.task),
    message:
        "Texts of {wildcards.task}"
    shell:
        "icl-lens corpora --task {wildcards.task} {params.source} --out {output:q} 2> {log:q}"

# Prompts of one task and prompt set, over all seeds.


localrules:
    prompts,


rule prompts:
    input:
        corpus=lambda wildcards: f"{CONFIG.results}/corpora/{CONFIG.text_source(wildcards.task)}.parquet",
    output:
        "<results>/prompts/{task}/{set}.parquet",
    log:
        "<logs>/prompts/{task}/{set}.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        code=code_of("icl_lens.prompts.protocol"),
        definition=lambda wildcards: definition_option(wildcards.task),
        seeds=CONFIG.seeds,
        queries=CONFIG.queries,
        auxiliary=lambda wildcards: (
            f"--auxiliary {CONFIG.studies.reweighting.auxiliary}"
            if wildcards.set.endswith("-auxiliary")
            else ""
        ),
    message:
        "Building prompts of {wildcards.task}, {wildcards.set}"
    shell:
        "icl-lens prompts --task {wildcards.task} {params.definition} --corpus {input.corpus:q} --set {wildcards.set} "
        "--seeds {params.seeds} --queries {params.queries} {params.auxiliary} --out {output:q} 2> {log:q}"

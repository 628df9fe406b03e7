# Representation change has separate models and separate prompts, which are generated without a corpus.


localrules:
    representation_prompts,


rule representation_prompts:
    output:
        "<results>/prompts/{task}/paired.parquet",
    log:
        "<logs>/prompts/{task}/paired.log",
    wildcard_constraints:
        task="lines|reading",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        code=code_of("icl_lens.studies.representation_change.paired_prompts"),
        settings=lambda wildcards: settings_option(
            "representation_change", wildcards.task
        ),
    message:
        "Building prompts of {wildcards.task}, with and without examples"
    shell:
        "icl-lens representation-prompts --task {wildcards.task} {params.settings} --out {output:q} 2> {log:q}"


# Train the second model from scratch. Only `reader_organism` requests it; `all` never trains.
rule reader_training:
    output:
        facts="<results>/training/reader/training.json",
        checkpoints=directory("<results>/training/reader/checkpoints"),
    log:
        "<logs>/training/reader.log",
    benchmark:
        "<benchmarks>/training/reader.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: CONFIG.reader_organism.threads
    resources:
        mem_mb=cluster_only(8_000),
        runtime=cluster_only(600),
    params:
        code=code_of("icl_lens.reader_organism.training"),
        recipe=CONFIG.reader_organism.model_dump_json(),
    message:
        "Training the second model ({CONFIG.reader_organism.steps} steps; progress in {log})"
    shell:
        "icl-lens reader-training --recipe {params.recipe:q} --checkpoints {output.checkpoints:q} --out {output.facts:q} "
        "2> {log:q}"


rule reader_organism:
    input:
        facts="<results>/training/reader/training.json",
        checkpoints="<results>/training/reader/checkpoints",
    output:
        directory("<results>/training/reader/model"),
    log:
        "<logs>/training/reader_card.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    resources:
        mem_mb=cluster_only(4_000),
        runtime=cluster_only(60),
    params:
        code=code_of("icl_lens.reader_organism.card"),
    message:
        "Evaluating the second model and writing its card"
    shell:
        "icl-lens reader-card --checkpoints {input.checkpoints:q} --facts {input.facts:q} --folder {output:q} 2> {log:q}"

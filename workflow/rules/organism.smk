# Train a model that learns in context from scratch. Only `organism` and its figure request it; `all` never trains.


rule training:
    input:
        corpora=training_corpora,
    output:
        table="<results>/training/training.parquet",
        facts="<results>/training/training.json",
        checkpoints=directory("<results>/training/checkpoints"),
    log:
        "<logs>/training/training.log",
    benchmark:
        "<benchmarks>/training/training.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: CONFIG.organism.threads
    resources:
        gpu=1,
        mem_mb=cluster_only(8_000),
        runtime=cluster_only(600),
    params:
        code=training_code(),
        recipe=CONFIG.organism.model_dump_json(
            exclude_none=True, exclude={"evaluation"}
        ),
        device=CONFIG.device,
        # Not an output: Snakemake deletes the outputs of a killed job, and the next run resumes from these files.
        work=f"{CONFIG.results}/training/unfinished",
    message:
        "Training on {CONFIG.tasks} ({CONFIG.organism.total_steps} steps; progress in {log})"
    shell:
        "icl-lens training --corpora {input.corpora:q} --recipe {params.recipe:q} --device {params.device} "
        "--gpus {resources.gpu} "
        "--work {params.work:q} --checkpoints {output.checkpoints:q} --facts {output.facts:q} --out {output.table:q} "
        "2> {log:q}"


rule evaluation:
    input:
        corpora=training_corpora,
        facts="<results>/training/training.json",
        checkpoints="<results>/training/checkpoints",
    output:
        "<results>/training/evaluation.parquet",
    log:
        "<logs>/training/evaluation.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: workflow.cores
    resources:
        mem_mb=cluster_only(8_000),
        runtime=cluster_only(120),
    params:
        code=code_of("icl_lens.organism.evaluation"),
        prompts=CONFIG.organism.evaluation.prompts,
        curve_prompts=CONFIG.organism.evaluation.curve_prompts,
    message:
        "Evaluating the trained model"
    shell:
        "icl-lens evaluation --checkpoints {input.checkpoints:q} --facts {input.facts:q} --corpora {input.corpora:q} "
        "--prompts {params.prompts} --curve-prompts {params.curve_prompts} --out {output:q} 2> {log:q}"


rule card:
    input:
        facts="<results>/training/training.json",
        checkpoints="<results>/training/checkpoints",
        evaluation="<results>/training/evaluation.parquet",
    output:
        directory("<results>/training/model"),
    log:
        "<logs>/training/card.log",
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    resources:
        mem_mb=cluster_only(4_000),
        runtime=cluster_only(60),
    params:
        code=code_of("icl_lens.organism.card"),
    message:
        "Writing the model card"
    shell:
        "icl-lens card --checkpoints {input.checkpoints:q} --facts {input.facts:q} --evaluation {input.evaluation:q} "
        "--folder {output:q} 2> {log:q}"


rule organism:
    input:
        rules.card.output,
        item_files("organism_learning_curve"),

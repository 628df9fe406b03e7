# Anchor re-weighting reads three prompt sets, and writes the trained factors beside its table.


ruleorder: reweighting > study


rule reweighting:
    input:
        prompts="<results>/prompts/{task}/shared-1shot.parquet",
        train="<results>/prompts/{task}/shared-1shot-auxiliary.parquet",
        baseline=f"<results>/prompts/{{task}}/shared-{CONFIG.studies.reweighting.shots}shot.parquet",
        model=lambda wildcards: model_files(wildcards.model),
    output:
        table="<results>/studies/{model}/{task}/shared-1shot/reweighting.parquet",
        beta="<results>/studies/{model}/{task}/shared-1shot/reweighting.safetensors",
    log:
        "<logs>/studies/{model}/{task}/shared-1shot/reweighting.log",
    benchmark:
        "<benchmarks>/studies/{model}/{task}/shared-1shot/reweighting.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: model_job_threads
    resources:
        gpu=model_job_gpus,
    params:
        code=code_of("icl_lens.studies.reweighting"),
        path=lambda wildcards: model_folder(wildcards.model),
        model=lambda wildcards: model_options(wildcards.model),
        device=CONFIG.device,
        batch_tokens=CONFIG.batch_tokens,
        settings=lambda wildcards: settings_option("reweighting", wildcards.task),
    message:
        "reweighting of {wildcards.model} on {wildcards.task}"
    shell:
        "icl-lens reweighting --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
        "--train {input.train:q} --baseline {input.baseline:q} "
        "--device {params.device} {params.model} --batch-tokens {params.batch_tokens} {params.settings} "
        "--out {output.table:q} 2> {log:q}"

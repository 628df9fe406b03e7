# Error diagnosis reads two prompts files: its keys are of one demonstration set per seed, its queries of a pool of them.


ruleorder: diagnosis > study


rule diagnosis:
    input:
        prompts="<results>/prompts/{task}/{set}.parquet",
        pooled="<results>/prompts/{task}/pooled-1shot.parquet",
        model=lambda wildcards: model_files(wildcards.model),
    output:
        "<results>/studies/{model}/{task}/{set}/diagnosis.parquet",
    log:
        "<logs>/studies/{model}/{task}/{set}/diagnosis.log",
    benchmark:
        "<benchmarks>/studies/{model}/{task}/{set}/diagnosis.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: model_job_threads
    resources:
        gpu=model_job_gpus,
    params:
        code=code_of("icl_lens.studies.diagnosis"),
        path=lambda wildcards: model_folder(wildcards.model),
        model=lambda wildcards: model_options(wildcards.model),
        device=CONFIG.device,
        batch_tokens=CONFIG.batch_tokens,
        settings=lambda wildcards: settings_option("diagnosis", wildcards.task),
    message:
        "diagnosis of {wildcards.model} on {wildcards.task}, {wildcards.set}"
    shell:
        "icl-lens diagnosis --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
        "--pooled {input.pooled:q} --device {params.device} {params.model} --batch-tokens {params.batch_tokens} "
        "{params.settings} --out {output:q} 2> {log:q}"

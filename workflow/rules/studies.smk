# One study of one model on one prompts file: a job loads one model once and does all seeds.


rule study:
    input:
        prompts="<results>/prompts/{task}/{set}.parquet",
        model=lambda wildcards: model_files(wildcards.model),
    output:
        "<results>/studies/{model}/{task}/{set}/{study}.parquet",
    log:
        "<logs>/studies/{model}/{task}/{set}/{study}.log",
    benchmark:
        "<benchmarks>/studies/{model}/{task}/{set}/{study}.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: model_job_threads
    resources:
        gpu=model_job_gpus,
    params:
        code=lambda wildcards: code_of(f"icl_lens.studies.{wildcards.study}"),
        path=lambda wildcards: model_folder(wildcards.model),
        model=lambda wildcards: model_options(wildcards.model),
        device=CONFIG.device,
        batch_tokens=CONFIG.batch_tokens,
        command=lambda wildcards: wildcards.study.replace("_", "-"),
        settings=lambda wildcards: settings_option(wildcards.study, wildcards.task),
    message:
        "{wildcards.study} of {wildcards.model} on {wildcards.task}, {wildcards.set}"
    shell:
        "icl-lens {params.command} --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
        "--device {params.device} {params.model} --batch-tokens {params.batch_tokens} {params.settings} "
        "--out {output:q} 2> {log:q}"

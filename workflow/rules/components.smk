# The study of components writes what it read and trained beside its table.


ruleorder: components > study


rule components:
    input:
        prompts="<results>/prompts/{task}/{set}.parquet",
        model=lambda wildcards: model_files(wildcards.model),
    output:
        table="<results>/studies/{model}/{task}/{set}/components.parquet",
        parts="<results>/studies/{model}/{task}/{set}/components.safetensors",
    log:
        "<logs>/studies/{model}/{task}/{set}/components.log",
    benchmark:
        "<benchmarks>/studies/{model}/{task}/{set}/components.jsonl"
    conda:
        "../../envs/icl-lens.yaml"
    threads: model_job_threads
    resources:
        gpu=model_job_gpus,
    params:
        code=code_of("icl_lens.studies.components"),
        path=lambda wildcards: model_folder(wildcards.model),
        model=lambda wildcards: model_options(wildcards.model),
        device=CONFIG.device,
        batch_tokens=CONFIG.batch_tokens,
        settings=lambda wildcards: settings_option("components", wildcards.task),
    message:
        "components of {wildcards.model} on {wildcards.task}, {wildcards.set}"
    shell:
        "icl-lens components --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
        "--device {params.device} {params.model} --batch-tokens {params.batch_tokens} {params.settings} "
        "--out {output.table:q} 2> {log:q}"

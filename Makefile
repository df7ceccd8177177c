# InRanker Flow. A bare `make` prints the first targets, `make help-all` all. Everything sets itself up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN  := $(VENV)/bin
# Byte code is written once: without it every stage pays twice for its imports.
export PYTHONDONTWRITEBYTECODE :=
# A tag of the versions that are registered.
export INRANKER_GIT_REVISION := $(or $(value INRANKER_GIT_REVISION),$(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null))
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)

# Variables of make's command line, and no others: a VERSION or HOST that a shell or a CI system exports is not meant for us.
# A value reaches a command as it was typed, in the environment: neither make nor a shell looks for $$, quotes or blanks in it.
VARIABLES := FROM TO PIPELINE PROFILE SEED SOURCE TARGETS TEACHER STUDENT GENERATOR TOKENIZER SET REGISTRY IMAGES CPU PYTHON_IMAGE \
  OVERLAY HOST NAMESPACE EXPERIMENT WAIT FORCE CRON MODEL VERSION WHY RUN DEVICE CALIBRATE JSON RUN_DIR RUNNER VERBOSE PYTHON QUERY PORT CANARY URL ALL ALSO UNFINISHED DRY_RUN
given = $(findstring command,$(origin $(1)))
$(foreach name,$(VARIABLES),$(if $(call given,$(name)),\
  $(eval unexport $(name))$(eval export INRANKER_MAKE_$(name) := $$(value $(name)))))
# What else would be taken for granted is said. (The other names are those that CI systems have, too.)
ignored := $(strip $(foreach name,PROFILE SOURCE TARGETS TEACHER STUDENT GENERATOR TOKENIZER SET RUN_DIR CRON WHY,\
  $(if $(findstring environment,$(origin $(name))),$(name))))
ifneq ($(ignored),)
$(shell echo 'NOTE: $(ignored): in the environment, where it does not count; give it on the command line: make TARGET $(firstword $(ignored))=...' >&2)
endif
ifneq ($(call given,REGISTRY),)
export INRANKER_REGISTRY := $(value REGISTRY)
endif

# $(call option,--name,NAME): the option with NAME's value, where one is given; $(call flag,--name,NAME): where it says yes.
filled = $(if $(call given,$(1)),$(if $(value $(1)),yes))
option = $(if $(call filled,$(2)),$(1)="$$INRANKER_MAKE_$(2)")
flag = $(if $(call yes,$(2)),$(1))
yes = $(if $(call filled,$(1)),$(filter-out 0 no false,$(value $(1))))
# An empty RUN_DIR is no wish for the default.
run_dir = $(if $(call given,RUN_DIR),--run-dir="$$INRANKER_MAKE_RUN_DIR")
profile_options = $(call option,--profile,PROFILE) \
  $(foreach name,SEED SOURCE TARGETS TEACHER STUDENT GENERATOR TOKENIZER,\
    $(call option,--$(shell echo $(name) | tr A-Z a-z),$(name))) \
  $(call option,--settings,SET)
api_options = $(call option,--namespace,NAMESPACE) $(call option,--experiment,EXPERIMENT) $(call option,--host,HOST)
pipeline = $(if $(call filled,PIPELINE),-- "$$INRANKER_MAKE_PIPELINE")
# The command takes the shell's place, so that a signal to make reaches it.
inranker = exec $(BIN)/python -m inranker_flow

# What stands first, and the groups; a target of none is among the last.
FIRST := run try report mlflow plan test
HELP_GROUPS := your_data=collection,compile cluster=deploy,diff,submit,schedule,unschedule,runs,why,images,push \
  serve=serve,serving,verify registry=promote,rollback,history \
  develop=check,format,integration,setup,clean,readmes,versions,lock,demo-models

.PHONY: help help-all
help:
	@FIRST='$(FIRST)' HELP_GROUPS='$(HELP_GROUPS)' exec ./scripts/help $(MAKEFILE_LIST)
help-all: ## Every target and every variable
	@exec ./scripts/help --all $(MAKEFILE_LIST)

## PIPELINE   which pipeline (default inranker)
## PROFILE    demo (default), smoke (default with SOURCE or TARGETS), small, paper, or a YAML file of yours
## SEED       seed of the run; in the demo also of its world (default: the profile's)
## FROM       what make collection looks at: a folder of documents, a table, s3://, hf://datasets/OWNER/NAME, ir_datasets:ID
## TO         folder that it makes of that, in BEIR layout
## SOURCE     collection with supervised queries: BEIR folder, s3://, ir_datasets:ID, Parquet
## TARGETS    collections to adapt to, separated by commas
## TEACHER    checkpoint of the teacher: hub id, folder, s3://
## STUDENT    checkpoint that the student starts from
## GENERATOR  checkpoint of the query generator
## TOKENIZER  tokenizer folder for the random checkpoints of the smoke profile
## SET        further settings: SET="phase1.max_steps=100 retrieval.negatives=5"
## REGISTRY   where images are pushed to and pulled from: registry.example/team
## IMAGES     some of base,train,generate,serve (default all)
## CPU        1 builds images for a cluster without GPUs: no vLLM in generate
## PYTHON_IMAGE  base of all images (default Python 3.11 of Debian, by digest)
## OVERLAY    what `make deploy` applies: a folder of k8s/overlays (default dev), or kfp-standalone
## HOST       address of the KFP API (default KF_PIPELINES_ENDPOINT): https://kubeflow.example.com/pipeline
## NAMESPACE  namespace on the cluster, of make deploy and of the runs (default inranker)
## EXPERIMENT experiment of the runs (default inranker)
## WAIT       1 follows the submitted run to its end
## FORCE      1 submits although the same run is still going, changes a schedule whose run is under way (which ends with it)
## CRON       six fields, seconds first: CRON='0 0 3 * * *' is every day at three
## MODEL      registered model of promote, rollback, history and serve (default inranker); serve takes a folder, too
## VERSION    number of the version that make promote lets serve
## WHY        why, in a sentence: it is kept in the history
## RUN        id or name of a run (default the newest)
## DEVICE     what make plan reckons with: here, cpu, A100, H100 ... (default here for models on this machine, else the cluster's)
## CALIBRATE  0: make plan measures nothing; 1: however long it takes (default: where it takes seconds)
## JSON       file that make plan writes to, too
## RUN_DIR    where artifacts, cache, MLflow database and logs go (default .run)
## ALSO       what make clean removes, too: registry (with its history), store (labels and results); ALSO=registry,store
## ALL        1: make clean removes both
## UNFINISHED days: make clean removes from the store the unfinished work that is older, and nothing else
## DRY_RUN    1: make clean only says what would go
## QUERY      what make try searches for
## PORT       where make serve listens (default 8080)
## CANARY     share of the requests that make serve gives to the challenger, 0 to 1
## URL        server that make serving and make verify look at (default http://127.0.0.1:8080)
## RUNNER     process (default) or docker: what a task of make run runs in; docker needs make images and an MLflow server
## VERBOSE    1 shows every line of the stages and of KFP, on a terminal too
## PYTHON     interpreter that makes the environment: 3.11 to 3.13 (default python3)

.PHONY: run
run: $(VENV)/.ready ## Run PIPELINE on this machine with PROFILE, then print results, verdict and where to look
	@$(inranker) run $(profile_options) $(run_dir) $(or $(call option,--runner,RUNNER),--runner=process) $(call flag,--verbose,VERBOSE) $(pipeline)

.PHONY: collection
collection: $(VENV)/.ready ## What a run would read of FROM: passages, lengths, judgements, samples; TO=... writes it in BEIR layout
	@$(inranker) collection $(call option,--to,TO) $(call option,--settings,SET) $(if $(call filled,FROM),-- "$$INRANKER_MAKE_FROM")

.PHONY: plan
plan: $(VENV)/.ready ## What PIPELINE with PROFILE will take, before it runs: pairs, tokens, GPU-hours, price, bytes
	@$(inranker) plan $(profile_options) $(run_dir) $(call option,--device,DEVICE) \
	  $(call option,--calibrate,CALIBRATE) $(call option,--json,JSON) $(pipeline)

.PHONY: compile
compile: $(VENV)/.ready ## Compile PIPELINE to build/PIPELINE.yaml and resolve PROFILE to build/PIPELINE.PROFILE.json
	@$(inranker) compile --out build $(profile_options) $(pipeline)

.PHONY: submit schedule unschedule runs why
submit: $(VENV)/.ready ## Start PIPELINE with PROFILE on a cluster, once; WAIT=1 follows it, FORCE=1 starts it once more
	@$(inranker) submit $(profile_options) $(api_options) $(call flag,--wait,WAIT) $(call flag,--force,FORCE) $(pipeline)
schedule: $(VENV)/.ready ## Start it by CRON, one run at a time; repeat it to change it
	@$(inranker) schedule $(profile_options) $(api_options) $(call option,--cron,CRON) $(call flag,--force,FORCE) $(pipeline)
unschedule: $(VENV)/.ready ## End the schedule of PIPELINE with PROFILE
	@$(inranker) unschedule $(profile_options) $(api_options) $(call flag,--force,FORCE) $(pipeline)
runs: $(VENV)/.ready ## The newest runs on the cluster: state, start, minutes, link
	@$(inranker) runs $(api_options)
why: $(VENV)/.ready ## One sentence about RUN, here or on a cluster: which task, what was said of it, the last line of its log
	@$(inranker) why $(api_options) $(run_dir) $(call option,--run,RUN)

.PHONY: promote rollback history
promote: $(VENV)/.ready ## Let VERSION of MODEL serve, by hand, after it has been loaded; WHY="..." is recorded
	@$(inranker) promote $(call option,--model,MODEL) $(run_dir) $(call option,--version,VERSION) $(call option,--why,WHY)
rollback: $(VENV)/.ready ## Let the version serve that served before; twice goes further back; WHY="..." is recorded
	@$(inranker) rollback $(call option,--model,MODEL) $(run_dir) $(call option,--why,WHY)
history: $(VENV)/.ready ## Which version of MODEL served when, and who changed it why
	@$(inranker) history $(call option,--model,MODEL) $(run_dir)

.PHONY: try serve serving verify
try: $(VENV)/.ready ## Search the last run's corpus for QUERY: the first stage's best beside the champion's
	@$(inranker) try $(run_dir) $(if $(call filled,QUERY),-- "$$INRANKER_MAKE_QUERY")
serve: $(VENV)/.ready ## Serve the champion of MODEL over HTTP and follow it (docs/serving.md)
	@$(inranker) serve $(run_dir) $(call option,--port,PORT) $(call option,--canary,CANARY) $(if $(call filled,MODEL),-- "$$INRANKER_MAKE_MODEL")
serving: $(VENV)/.ready ## What the server at URL serves, and what failed
	@$(inranker) serving $(if $(call filled,URL),-- "$$INRANKER_MAKE_URL")
verify: $(VENV)/.ready ## Compare the server at URL with the evaluation of the last run
	@$(inranker) verify $(run_dir) $(if $(call filled,URL),-- "$$INRANKER_MAKE_URL")

.PHONY: deploy diff
overlay = $(if $(call filled,OVERLAY),"$$INRANKER_MAKE_OVERLAY",dev)
namespace = $(if $(call filled,NAMESPACE),"$$INRANKER_MAKE_NAMESPACE")
deploy: ## Apply OVERLAY to NAMESPACE in the cluster of kubectl's current context (docs/cluster.md)
	@NAMESPACE=$(namespace) FORCE=$(if $(call yes,FORCE),1) exec k8s/deploy apply $(overlay)
diff: ## Show what `make deploy` would change there
	@NAMESPACE=$(namespace) FORCE=$(if $(call yes,FORCE),1) exec k8s/deploy diff $(overlay)

.PHONY: images push
images: $(VENV)/.ready ## Build the images (IMAGES, default all) for REGISTRY, tagged by the content of their sources
	@$(inranker) images $(call option,--only,IMAGES) $(call option,--python-image,PYTHON_IMAGE) $(call flag,--cpu,CPU)
push: $(VENV)/.ready ## Push them to REGISTRY and write their digests to images/images.lock
	@$(inranker) push $(call option,--only,IMAGES)

.PHONY: test
test: $(VENV)/.ready check ## All checks and tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: integration
integration: $(VENV)/.ready ## What takes minutes: the pipeline in its real containers (docker, S3, MLflow on PostgreSQL), kills, many processes
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
readmes: $(VENV)/.ready ## Rewrite components/README.md from their interfaces
	@$(BIN)/python -m components.readme

.PHONY: versions
versions: $(VENV)/.ready ## Let the versions in reuse.VERSIONS stand for the stages' sources as they are now
	@$(inranker) versions --write

.PHONY: report
report: $(VENV)/.ready ## The evidence of the last run, in a browser
	@$(inranker) report $(run_dir)

.PHONY: mlflow
mlflow: $(VENV)/.ready ## Open MLflow's UI on the local database (127.0.0.1:5000)
	@$(inranker) mlflow $(run_dir)

.PHONY: demo-models
demo-models: $(VENV)/.ready ## Rebuild the demo's three small models from their seed (minutes)
	@$(BIN)/python -m inranker_flow.demo.build --seed 1 --out src/inranker_flow/demo/models

.PHONY: setup
setup: $(VENV)/.ready ## Create the environment (the other targets do it themselves)

.PHONY: lock
lock: $(VENV)/.ready ## Resolve requirements.lock anew from pyproject.toml
	@./scripts/lock

.PHONY: clean
clean: ## Remove what runs and builds left, and say first what; registry and labels stay (ALSO=... or ALL=1: they go, too)
	@exec $(or $(wildcard $(BIN)/python),python3) -m inranker_flow clean $(run_dir) $(call option,--also,ALSO) \
	  $(call flag,--all,ALL) $(call option,--unfinished,UNFINISHED) $(call flag,--dry-run,DRY_RUN)

$(VENV)/.ready: requirements.lock scripts/setup
	@exec ./scripts/setup $(if $(call filled,PYTHON),"$$INRANKER_MAKE_PYTHON",python3) '$(VENV)'

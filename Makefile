# Every target sets itself up in .venv first; all that must be there is Python 3.11 or newer.
#
#   make parity   one plan, both frameworks, ResNet-50 and ERNIE base at full size
#   make align    the acceptance reports of ERNIE base and ResNet-50, in both languages, into build/align
#   make errors   40 porting errors and 20 random edits, and which checks catch them; writes its page
#   make pairs    networks of both frameworks paired again, as many as fit into 2 minutes
#   make families every family of four libraries described, and held against the libraries' own lists
#   make plans    10,000 random operations with plans in each framework, against a plain reference
#   make shuffled 100 models registered in another order than they run
#   make damaged  100 seeded damages to how models are written down
#   make drawn    200 random small networks, each built in both frameworks, paired and judged
#   make freezings  300 random freezings, captured on one port and applied on the other
#   make zoo      what words select in the models of four libraries, by the libraries' own word
#   make suites   recipes for PaddleDetection, PaddleSeg, PaddleClas, PaddleOCR and deepmd-kit, two steps each
#   make formers  transformers paired with PaddleFormers, in two environments
#   make fuzz     hostile files, text and arguments for SECONDS each (default 20), and writers killed
#   make atheris  hostile weight files found by coverage, SECONDS for each format; Linux alone
#   make interrupts  Ctrl-C at every line of apply, step, remove and load_state_dict
#   make kill     runs with phases killed at every step and resumed, in both frameworks
#   make ranks    long runs in several processes: killed, saved in parts, 200 changes of phases
#   make wrappers the page of what a plan does under every wrapper, trainer, compiler and optimizer
#   make processes  Paddle's processes: killed and resumed, 1,000 steps with 200 changes; what phases send
#   make cache    ResNet-50 and ERNIE base at full size: bits of runs with a cache and without
#   make test     the test suite
#   make check    what CI runs: formatting, types, import boundaries, tests
#   make docs     the documentation as a site, in English and Chinese, into build/docs
#   make pages    the pages of `explain --html` in a real browser; needs Chromium
#   make any-machine  the tests as three other machines would run them, one of them in random order
#   make gpu      the GPU run; skips, with the reason, where there is no GPU (docs/en/gpu.md)
#   make gpu-wheels   what a GPU machine without a network lacks, into .gpu-wheels
#   make gpu-records  Paddle's records on the CPU, for GPU machines without Paddle
#
# To choose a build of PyTorch, name its index:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
GPU_PYTHON ?= 3.12
SECONDS ?= 20
INSTALLED := $(VENV)/.installed

.PHONY: setup parity align errors pairs families plans shuffled damaged drawn freezings zoo suites formers fuzz atheris interrupts kill processes ranks wrappers cache test docs pages any-machine check gpu gpu-wheels gpu-records bench clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "unifreeze needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# What pip comes with Python may be too old to build what PaddleNLP needs from source.
	$(BIN)/python -m pip install -q --upgrade 'pip>=24'
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -q torch torchvision -c ci/constraints.txt --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -q -c ci/constraints.txt -e '.[torch,paddle,nlp,vision,docs,dev]'
	touch $(INSTALLED)

parity: setup
	$(BIN)/python -W ignore examples/parity.py

align: setup
	$(BIN)/python -W ignore -m examples.align

errors: setup
	$(BIN)/python -W ignore -m tests.support.porting_errors

pairs: setup
	$(BIN)/python -W ignore -m tests.support.pairs.table --budget 120

families: setup
	$(BIN)/python -W ignore -m tests.support.families

plans: setup
	$(BIN)/python -W ignore -m tests.support.plan_machine --operations 10000

shuffled: setup
	$(BIN)/python -W ignore -m tests.support.shuffled --models 100

damaged: setup
	$(BIN)/python -W ignore -m tests.support.shuffled --damages 100

drawn: setup
	$(BIN)/python -W ignore -m tests.support.pairs.drawn --count 200

freezings: setup
	$(BIN)/python -W ignore -m tests.support.pairs.freezings

zoo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ci/zoo.sh

suites: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ci/suites.sh

formers: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ci/formers.sh

fuzz: setup
	$(BIN)/python -W ignore -m tests.support.fuzz --seconds $(SECONDS)
	$(BIN)/python -W ignore -m tests.support.whole_writers --kills 100

atheris: setup
	$(BIN)/python -m pip install -q atheris
	for format in safetensors pdparams pt bin; do \
	  $(BIN)/python -W ignore -m tests.support.fuzz.by_coverage $$format --seconds $(SECONDS) || exit 1; done

interrupts: setup
	$(BIN)/python -W ignore -m pytest -s -m slow tests/test_interrupts.py

kill: setup
	for framework in torch paddle; do for optimizer in adamw sgd; do \
	  $(BIN)/python -W ignore -m tests.support.killed $$framework $$optimizer . --every || exit 1; done; done

ranks: setup
	$(BIN)/python -W ignore -m pytest -m slow tests/test_torch_restarts.py \
	  tests/test_torch_saved_in_parts.py tests/test_torch_long_runs.py

wrappers: setup
	$(BIN)/python -W ignore -m tests.support.matrix

processes: setup
	$(BIN)/python -W ignore -m pytest -m slow tests/test_paddle_data_parallel.py tests/test_at_scale.py \
	  tests/test_paddle_resume_in_processes.py tests/test_paddle_ranks.py

cache: setup
	$(BIN)/python -W ignore -m pytest -m slow tests/test_cache_of_real_networks.py tests/test_faster_prefix.py

test: setup
	$(BIN)/python -m pytest -m 'not slow and not browser'

docs: setup
	for language in en zh; do $(BIN)/python -W ignore -m sphinx -q -W --keep-going -c docs -D language=$$language \
	  -d build/docs/.$$language docs/$$language build/docs/$$language || exit 1; done
	$(BIN)/python -W ignore -m tests.support.built_site build/docs

pages: setup
	$(BIN)/python -W ignore -m pytest -m browser tests/cli
	$(BIN)/python -W ignore -m tests.support.large_page

any-machine: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ci/any_machine.sh

check: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ci/check.sh

gpu: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ci/gpu.sh

gpu-wheels:
	$(PYTHON) ci/gpu_wheels.py fetch $(GPU_PYTHON)

gpu-records: setup
	$(BIN)/python -W ignore ci/gpu.py --keep

bench: setup
	$(BIN)/python benchmarks/plan_engine.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/schedule_step.py
	$(BIN)/python benchmarks/pairing.py
	$(BIN)/python benchmarks/agreement.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SAMPLES := adatok_hf/samples
CPU_WHEELS := https://download.pytorch.org/whl/cpu
HAS_GPU := $(shell command -v nvidia-smi)

.PHONY: demo space browser test slow lint figures generator install

# Everything serves the demo too, so it is not installed a second time.
demo: $(or $(wildcard $(VENV)/.installed),$(VENV)/.core)
	$(BIN)/adatok reconstruct $(SAMPLES) --budgets 8,16,32,64 --out outputs/demo/forced
	$(BIN)/adatok reconstruct $(SAMPLES) --budgets auto --out outputs/demo/chosen
	@echo "The pictures are in outputs/demo/forced/grid.png and outputs/demo/chosen/grid.png"

# ADATOK_MODEL=someone/a-model ADATOK_PIPELINE=... GRADIO_SERVER_PORT=... make space
space: $(VENV)/.installed
	$(BIN)/python spaces/adatok/app.py

# The page that runs in a browser alone, http://127.0.0.1:7861; onnxruntime-web comes from npm
browser: $(VENV)/.installed
	rm -rf outputs/adatok-browser
	$(BIN)/python spaces/adatok-browser/build.py outputs/adatok-browser
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory outputs/adatok-browser 7861

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

# What takes minutes each; the twenty kills of a bulk job run by hand (docs/scale.md)
slow: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow -k "not twenty" -n 2 --dist loadscope

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Writes the figures that are there into README and docs; with TOKENIZER it measures first, for hours, and goes on where it was cut off
#   make figures TOKENIZER=outputs/tiny-64 DATA=pictures   policy, study, evaluation and speed of a trained tokenizer
#   make generator DATA=pictures                           generators for the embedded tokenizer, and what they are worth
figures: $(VENV)/.installed
	$(if $(TOKENIZER),$(BIN)/python docs/measure.py --data $(DATA) tokenizer $(TOKENIZER))
	$(BIN)/python docs/figures.py

generator: $(VENV)/.installed
	$(BIN)/python docs/measure.py --data $(DATA) generator
	$(BIN)/python docs/figures.py

install: $(VENV)/.installed

# Without a GPU torch comes as its build for CPUs, the newest that lies at hand or on PyTorch's page: what constraints.txt
# pins may be there for GPUs only. Where there is none, the next line brings the large build.
$(VENV)/.core: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(HAS_GPU),,-$(BIN)/pip install --quiet --no-deps --no-index --find-links $(CPU_WHEELS)/torch/ torch)
	grep -v '^torch' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt --editable .
	touch $@

# torch and torchvision are one pair and come first, in their builds for CPUs where there is no GPU and such are found.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt $(if $(HAS_GPU),,--extra-index-url $(CPU_WHEELS)) torch torchvision
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

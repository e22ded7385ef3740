VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SAMPLES := adatok_hf/samples

.PHONY: demo space test lint figures install

demo: $(VENV)/.installed
	$(BIN)/adatok reconstruct $(SAMPLES) --budgets 4,8,16,32 --out outputs/demo/forced
	$(BIN)/adatok reconstruct $(SAMPLES) --budgets auto --out outputs/demo/chosen
	@echo "The pictures are in outputs/demo/forced/grid.png and outputs/demo/chosen/grid.png"

# ADATOK_MODEL=someone/a-model ADATOK_PIPELINE=... GRADIO_SERVER_PORT=... make space
space: $(VENV)/.installed
	$(BIN)/python spaces/adatok/app.py

test: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# make figures                                            writes the figures that are there into README and docs
# make figures TOKENIZER=outputs/tiny-128 DATA=pictures   measures a trained tokenizer first, for hours; goes on where it was cut off
figures: $(VENV)/.installed
	$(BIN)/python docs/figures.py $(if $(TOKENIZER),--tokenizer $(TOKENIZER) --data $(DATA))

install: $(VENV)/.installed

# torch first: without the pin in constraints.txt other packages would pull a build of several gigabytes.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# What must hold. In a virtual environment, after `pip install -e ".[dev]"`, `make check`
# is what CI runs, but for the oldest supported versions: `make oldest` installs them.

export MPLBACKEND = Agg
export OMP_NUM_THREADS = 1

.PHONY: check lint types test acceptance docs wheel oldest lock

check: lint types test acceptance docs wheel

lint:  ## style and spelling
	ruff check .
	ruff format --check .
	codespell

types:  ## the public face; then names alone, in all code: self.p.typo is an error
	mypy
	mypy --config-file tests/typing/names.toml

test:  ## the tests of the README
	python -m pytest

acceptance:  ## clusters in real images, memory of large data, snippets, a browser
	python -m pytest -m acceptance

docs:  ## documentation without warnings, with the examples at small size
	python examples/benchmarks/fill_readme.py --check
	sphinx-build -q -W --keep-going -b html doc doc/_build/html

wheel:  ## what the wheel holds
	python -m build --wheel --outdir dist .
	python -m zipfile -l dist/*.whl

oldest:  ## oldest supported scikit-learn and skorch, which hide those that are installed
	rm -rf build/oldest
	pip install -q --no-deps --target build/oldest "scikit-learn==1.6.*" "skorch==1.3.1"
	PYTHONPATH=$(CURDIR)/build/oldest python -m pytest tests/test_sklearn.py tests/test_engine.py -k "not SCL and not StatDEC and not GCC and not MFCVAE"

lock:  ## whether a change of the code changed a result, on the machine of the record
	python examples/benchmarks/lock.py
